//! Sticks as they are: small, read-only, FAT, pulled out in the middle of a write. And a stranger who
//! opens what lies on one.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bech32::{Bech32, Hrp};
use identity::NodeKey;
use kit::fault_fs::{FaultFs, Loss};
use kit::phantom::Phantom;
use kit::process::{Finished, Role, finish};
use kit::wait::until;
use kit::world::words;
use serde_json::Value;
use tempfile::TempDir;

use crate::lone::{Lone, campaign_length};
use crate::programs;
use crate::small_disk::SmallDisk;

const DEADLINE: Duration = Duration::from_secs(60);

/// A box with one packed study that may leave; it does not run. And its hub's folder.
fn packed(seed: u64, side: u16) -> (TempDir, Lone, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let aside = place.path().join("aside");
    fs::create_dir(&aside).unwrap();
    let quiet = ("AGENT__INTAKE__QUIET_PERIOD", "1s");
    let mut unit = Lone::new(programs(), place.path(), &aside, &[quiet]);
    unit.start().unwrap();
    let phantom = Phantom {
        seed,
        slices: 4,
        side,
    };
    let (study, instances) = (phantom.study(), phantom.instances());
    let sent = unit.modality().send(&instances);
    sent.complete(instances.len()).unwrap();
    let consent = ["consent", study.as_str(), "--basis", "spoken", "--by", "AB"];
    unit.command(words(consent, [])).success().unwrap();
    until(DEADLINE, "the study to be packed", || {
        let status = unit.status();
        let packed = status["studies"][0]["revision"].as_u64()?;
        (packed > 0).then_some(())
    })
    .unwrap();
    unit.stop();
    (place, unit, aside.join("hub-of-nobody"))
}

fn bundle(verb: &str, stick: &Path) -> Vec<OsString> {
    let args = words(["bundle", verb], [stick.to_owned()]);
    args.chain(words(["--json"], [])).collect()
}

fn hub(folder: &Path, args: Vec<OsString>) -> Finished {
    let data = words(["--data"], [folder.to_owned()]);
    let args: Vec<_> = args.into_iter().chain(data).collect();
    programs().run(Role::Hub, &args).unwrap()
}

fn tool(program: &str, words: &[&str], paths: &[&Path]) -> Finished {
    let mut command = Command::new(program);
    command.args(words).args(paths);
    finish(command, DEADLINE).unwrap()
}

fn remount(disk: &Path, how: &str) {
    tool("mount", &["-o", how], &[disk]).success().unwrap();
}

#[test]
#[ignore = "needs root, mkfs.ext4 and a loop device"]
fn a_read_only_stick_says_so_and_still_gives_what_it_holds() {
    let (place, unit, hub_folder) = packed(81, 64);
    let disk = SmallDisk::mount(place.path(), 16 << 20, 64);
    let output = unit.command(bundle("export", disk.path())).json().unwrap();
    assert_eq!(
        (&output["safe_to_remove"], &output["own_disk"]),
        (&true.into(), &false.into())
    );
    // As if it were pulled out right then: what was said to be safe needs no further sync.
    disk.switch().cut();
    disk.power_on();
    remount(disk.path(), "remount,ro");
    let refused = unit
        .command(bundle("export", disk.path()))
        .failure(1)
        .unwrap();
    assert!(refused.contains("is read-only"), "{refused}");
    let taken = hub(&hub_folder, bundle("import", disk.path()))
        .json()
        .unwrap();
    assert_eq!(taken["bundles"][0]["state"], "imported");
    assert!(taken["bundles"][0]["revisions"].as_u64().unwrap() > 0);
}

#[test]
#[ignore = "needs root, mkfs.ext4 and a loop device"]
fn a_small_stick_takes_what_fits_and_names_the_rest() {
    let (place, unit, hub_folder) = packed(82, 512);
    let disk = SmallDisk::mount(place.path(), 16 << 20, 64);
    let fill = |name: &str, leave: u64| {
        // ext4 keeps some of what is free to itself.
        let space = rustix::fs::statvfs(disk.path()).unwrap();
        let bytes = space.f_bavail * space.f_frsize - leave;
        let file = fs::File::create(disk.path().join(name)).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    };
    fill("films", 400 << 10);
    let output = unit.command(bundle("export", disk.path())).json().unwrap();
    let written = &output["bundles"][0];
    assert_eq!(written["left_out"][0]["reason"], "it does not fit");
    assert!(written["records"].as_u64().unwrap() > 0);
    let taken = hub(&hub_folder, bundle("import", disk.path()))
        .json()
        .unwrap();
    assert_eq!(taken["bundles"][0]["state"], "imported");

    fill("more", 16 << 10);
    let full = unit
        .command(bundle("export", disk.path()))
        .failure(1)
        .unwrap();
    assert!(full.contains("is full"), "{full}");
    let entries = fs::read_dir(disk.path().join("CHASQUI")).unwrap().count();
    assert_eq!(entries, 1, "nothing half written is left");
}

#[test]
#[ignore = "needs mkfs.vfat, fsck.vfat and mtools"]
fn fat32_takes_a_bundle_as_it_is_and_gives_it_back() {
    let (place, unit, hub_folder) = packed(85, 64);
    let (stick, back) = (place.path().join("stick"), place.path().join("back"));
    fs::create_dir(&stick).unwrap();
    fs::create_dir(&back).unwrap();
    unit.command(bundle("export", &stick)).success().unwrap();
    let image = place.path().join("fat");
    fs::File::create(&image).unwrap().set_len(40 << 20).unwrap();
    tool("mkfs.vfat", &["-F", "32", "-s", "1"], &[&image])
        .success()
        .unwrap();
    let device = image.to_str().unwrap();
    let folder = stick.join("CHASQUI");
    // What is no plain short name would get a second, long one.
    let copied = tool(
        "mcopy",
        &["-s", "-i", device, folder.to_str().unwrap(), "::"],
        &[],
    );
    copied.success().unwrap();
    let listed = tool("mdir", &["-/", "-b", "-i", device, "::"], &[])
        .success()
        .unwrap();
    assert!(!listed.contains('~'), "{listed}");
    tool("fsck.vfat", &["-n"], &[&image]).success().unwrap();
    let given = tool(
        "mcopy",
        &["-s", "-i", device, "::CHASQUI", back.to_str().unwrap()],
        &[],
    );
    given.success().unwrap();
    let taken = hub(&hub_folder, bundle("import", &back)).json().unwrap();
    assert_eq!(taken["bundles"][0]["state"], "imported");
}

/// What a stick holds for the hub: bundles that are whole, and others.
fn look(hub_folder: &Path, stick: &Path) -> (usize, usize) {
    let args = bundle("import", stick);
    let finished = hub(hub_folder, args);
    let output: Value = serde_json::from_str(&finished.stdout).unwrap();
    let lines = output["bundles"].as_array().unwrap();
    let whole = lines
        .iter()
        .filter(|line| ["imported", "known"].iter().any(|s| line["state"] == *s));
    let whole = whole.count();
    (whole, lines.len() - whole)
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn pulled_out_at_any_moment_a_stick_holds_what_was_claimed_and_no_half_bundle() {
    let (place, unit, hub_folder) = packed(83, 64);
    let mounted = place.path().join("stick");
    fs::create_dir(&mounted).unwrap();
    let operations = {
        let stick = FaultFs::mount(&mounted).unwrap();
        unit.command(bundle("export", stick.path()))
            .success()
            .unwrap();
        stick.operations()
    };
    let mut claimed = 0;
    // The first cuts meet any operation of an export, the last ones come when all is done.
    let step = if campaign_length() > 1 { 1 } else { 7 };
    let cuts = (0..=operations)
        .step_by(step)
        .chain(operations - 3..=operations + 1);
    for cut in cuts {
        let mut stick = FaultFs::mount(&mounted).unwrap();
        stick.cut_after(cut);
        let finished = unit.command(bundle("export", stick.path()));
        let success = finished.code == Some(0);
        if !success {
            assert!(!finished.stdout.contains("safe"), "{}", finished.stdout);
        }
        stick.power_on(Loss::Torn { seed: cut + 1 }).unwrap();
        let (whole, broken) = look(&hub_folder, stick.path());
        assert_eq!(broken, 0, "cut after {cut}: a half bundle has a name");
        assert!(
            !success || whole == 1,
            "cut after {cut}: what was claimed is gone"
        );
        claimed += usize::from(success);
        // The next attempt works, and leaves nothing of the one that was cut off.
        unit.command(bundle("export", stick.path()))
            .success()
            .unwrap();
        let names = fs::read_dir(stick.path().join("CHASQUI")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| name.len() == 8), "{names:?}");
        assert_eq!(look(&hub_folder, stick.path()), (whole + 1, 0));
    }
    assert!(claimed > 0, "no export came to its end");
}

#[test]
#[ignore = "needs age"]
fn a_stranger_opens_a_bundle_with_the_right_key_and_no_other() {
    let (place, unit, hub_folder) = packed(84, 64);
    let stick = place.path().join("stick");
    fs::create_dir(&stick).unwrap();
    let size = words(["--part-size", "64 KiB"], []);
    let args = bundle("export", &stick).into_iter().chain(size);
    unit.command(args).success().unwrap();
    let folder = fs::read_dir(stick.join("CHASQUI"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut parts: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    parts.sort();
    let joined = place.path().join("joined.age");
    let bytes: Vec<u8> = parts
        .iter()
        .flat_map(|part| fs::read(part).unwrap())
        .collect();
    fs::write(&joined, &bytes).unwrap();

    let open_with = |folder: &Path| {
        let key = NodeKey::load(&folder.join("node.key")).unwrap();
        let hrp = Hrp::parse("age-secret-key-").unwrap();
        let written = bech32::encode_upper::<Bech32>(hrp, &*key.x25519_secret()).unwrap();
        let identity = place.path().join("identity");
        fs::write(&identity, written).unwrap();
        let opened = place.path().join("opened");
        let _ = fs::remove_file(&opened);
        let paths = [joined.as_path()];
        let (identity, out) = (identity.to_str().unwrap(), opened.to_str().unwrap());
        let finished = tool("age", &["--decrypt", "-i", identity, "-o", out], &paths);
        (finished, fs::read(&opened).unwrap_or_default())
    };
    let (refused, _) = open_with(unit.folder());
    refused.failure(1).unwrap();
    let (opened, inside) = open_with(&hub_folder);
    opened.success().unwrap();
    let (length, inside) = inside.split_first_chunk().unwrap();
    let head = &inside[..usize::try_from(u32::from_be_bytes(*length)).unwrap()];
    assert!(
        head.starts_with(b"\x87\x6echasqui-bundle\x01"),
        "{head:02x?}"
    );
    let hub = NodeKey::load(&hub_folder.join("node.key")).unwrap().id();
    assert!(head.windows(32).any(|bytes| bytes == hub.as_bytes()));
}
