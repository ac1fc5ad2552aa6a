//! Takes instances from any peer and writes them to a folder: a provider to try scanners and tools on.
//!
//! `cargo run -p dimse --example store_to_folder -- PORT FOLDER [AE_TITLE]`; without a title it takes
//! whatever is called. Nothing is synced: this is no archive.

use std::path::PathBuf;
use std::sync::Arc;

use dimse::scp::{
    Contexts, Ending, Peer, Rejection, ScpConfig, Services, StoreCommand, StoreFault, StoreRequest,
    Tally, Visit, serve,
};
use dimse::{Answer, Status};
use study::AeTitle;
use study::part10::compose_meta;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(port), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: store_to_folder PORT FOLDER [AE_TITLE]".into());
    };
    let title = arguments.next();
    let mut config = ScpConfig::new(AeTitle::parse(title.as_deref().unwrap_or("ANY"))?);
    config.accept_any_called = title.is_none();
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    tell(&format!("listening on {}", listener.local_addr()?));
    let folder = Arc::new(Folder(folder.into()));
    serve(listener, config, folder, async {
        if tokio::signal::ctrl_c().await.is_err() {
            tell("cannot hear Ctrl-C; end me by other means");
            std::future::pending::<()>().await;
        }
    })
    .await;
    Ok(())
}

struct Folder(PathBuf);

struct Delivery {
    folder: PathBuf,
    peer: Peer,
}

impl Services for Folder {
    type Visit = Delivery;

    fn opened(&self, peer: &Peer, contexts: &Contexts) -> Delivery {
        tell(&format!("{} opened: {contexts:?}", peer.id));
        Delivery {
            folder: self.0.clone(),
            peer: peer.clone(),
        }
    }

    fn rejected(&self, peer: &Peer, reason: &Rejection) {
        tell(&format!("{} rejected: {reason}", peer.id));
    }

    fn failed(&self, peer: &Peer, ending: &Ending) {
        tell(&format!("{} failed: {ending}", peer.id));
    }
}

impl Visit for Delivery {
    fn admit(&mut self, command: &StoreCommand) -> Result<Vec<u8>, Answer> {
        let StoreCommand {
            sop_class,
            sop,
            transfer_syntax,
        } = command;
        Ok(compose_meta(
            sop_class,
            sop,
            transfer_syntax,
            self.peer.calling.as_ref(),
        ))
    }

    async fn store(&mut self, request: StoreRequest) -> Answer {
        let path = self.folder.join(format!("{}.dcm", request.command.sop));
        match tokio::fs::write(path, &request.file).await {
            Ok(()) => Answer::success(),
            Err(error) => Answer::failure(Status::OUT_OF_RESOURCES, error.to_string()),
        }
    }

    fn refuse(&mut self, fault: &StoreFault) -> Answer {
        Answer::failure(Status::CANNOT_UNDERSTAND, fault.to_string())
    }

    fn closed(self, ending: &Ending, tally: &Tally) {
        tell(&format!("{} closed: {ending}, {tally:?}", self.peer.id));
    }
}

#[expect(clippy::print_stdout, reason = "it is what the example shows")]
fn tell(text: &str) {
    println!("{text}");
}
