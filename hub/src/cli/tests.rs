use super::*;
use crate::archive::Custody;
use crate::bench::{Bench, STUDY, file, rot, wait};

fn check(folder: &Path) -> Result<(), Failure> {
    let folder = folder
        .to_str()
        .expect("a folder of a test has a plain name");
    let arguments = ["chasqui-hub", "check", "--json", "--data", folder];
    dispatch(
        Cli::try_parse_from(arguments)
            .map_err(Failure::internal)?
            .command,
    )
}

#[test]
fn a_check_fails_when_something_at_rest_is_damaged() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = runtime.block_on(async {
        let mut bench = Bench::new();
        let unit = bench.unit().await;
        let bytes = file(STUDY, "1.2.3.4.1.1", 1);
        let files: [(&str, &[u8]); 1] = [("1.2.3.4.1.1", &bytes)];
        let revision = bench.sender().revise(&unit, &files, true, |_| {});
        bench.send(&unit, &revision).await;
        wait(|| bench.rooms.archive.list().unwrap()[0].custody == Custody::AtHub);
        bench.close()
    });
    assert!(check(folder.path()).is_ok());
    rot(folder.path(), "packed");
    let failure = check(folder.path()).unwrap_err();
    assert_eq!(failure.exit, 1);
    let words = failure.error.to_string();
    assert!(words.contains("damaged: 1"), "{words}");
}
