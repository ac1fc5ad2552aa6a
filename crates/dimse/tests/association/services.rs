//! Queries, operations and events, between our own two roles.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dimse::scp::{
    Contexts, Ending, Event, Matches, Operation, OperationKind, Peer, Rejection, RequestFault,
    ScpConfig, Services, StoreCommand, StoreFault, StoreRequest, Tally, Visit, serve,
};
use dimse::scu::{Association, ScuConfig, ScuError};
use dimse::{
    Answer, COMMITMENT, COMMITMENT_INSTANCE, DataSet, PERFORMED_STEP, Service, Status,
    VERIFICATION, WORKLIST, tag,
};
use study::{AeTitle, SopClassUid, SopInstanceUid};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::bench::{config, proposals};

/// How many matches there are for whoever asks.
const MATCHES: u64 = 100_000;

/// What the service heard.
#[derive(Debug, PartialEq)]
enum Heard {
    Operation(OperationKind),
    Fault(RequestFault),
    Answered(Option<Status>),
}

struct Desk {
    heard: mpsc::UnboundedSender<Heard>,
    made: Arc<AtomicU64>,
}

struct Guest {
    heard: mpsc::UnboundedSender<Heard>,
    made: Arc<AtomicU64>,
    to_tell: Vec<Event>,
}

impl Services for Desk {
    type Visit = Guest;

    fn opened(&self, _: &Peer, _: &Contexts) -> Guest {
        Guest {
            heard: self.heard.clone(),
            made: Arc::clone(&self.made),
            to_tell: Vec::new(),
        }
    }

    fn rejected(&self, _: &Peer, _: &Rejection) {}
    fn failed(&self, _: &Peer, _: &Ending) {}
}

impl Visit for Guest {
    fn admit(&mut self, _: &StoreCommand) -> Result<Vec<u8>, Answer> {
        Ok(Vec::new())
    }

    async fn store(&mut self, _: StoreRequest) -> Answer {
        Answer::success()
    }

    fn refuse(&mut self, fault: &StoreFault) -> Answer {
        Answer::failure(Status::PROCESSING_FAILURE, fault.to_string())
    }

    async fn find(&mut self, identifier: DataSet) -> Result<Matches, Answer> {
        if identifier.ascii(tag::PATIENT_ID) == Some("LOCKED") {
            return Err(Answer::failure(Status::OUT_OF_RESOURCES, "locked"));
        }
        let made = Arc::clone(&self.made);
        Ok(Box::new((0..MATCHES).map(move |number| {
            made.fetch_add(1, Ordering::Relaxed);
            DataSet::default().with(tag::ACCESSION_NUMBER, number.to_string())
        })))
    }

    async fn operate(&mut self, operation: Operation) -> Answer {
        self.heard.send(Heard::Operation(operation.kind)).unwrap();
        if operation.kind == OperationKind::Action(1) {
            self.to_tell.push(Event {
                sop_class: operation.sop_class,
                sop: operation.sop,
                event_type: 1,
                data_set: operation.data_set,
            });
        }
        Answer::success()
    }

    fn refused(&mut self, fault: &RequestFault) {
        self.heard.send(Heard::Fault(fault.clone())).unwrap();
    }

    async fn event(&mut self) -> Event {
        match self.to_tell.pop() {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    fn event_answered(&mut self, status: Option<Status>) {
        self.heard.send(Heard::Answered(status)).unwrap();
    }

    fn closed(self, _: &Ending, _: &Tally) {}
}

struct World {
    address: SocketAddr,
    heard: mpsc::UnboundedReceiver<Heard>,
    made: Arc<AtomicU64>,
}

impl World {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, heard) = mpsc::unbounded_channel();
        let made = Arc::new(AtomicU64::new(0));
        let desk = Desk {
            heard: told,
            made: Arc::clone(&made),
        };
        let config = ScpConfig {
            services: vec![
                Service::Worklist,
                Service::Commitment,
                Service::PerformedStep,
            ],
            read_timeout: Duration::from_secs(5),
            ..config()
        };
        tokio::spawn(serve(
            listener,
            config,
            Arc::new(desk),
            std::future::pending(),
        ));
        Self {
            address,
            heard,
            made,
        }
    }

    async fn associate(&self) -> Association {
        let [calling, called] = ["CT1", "CHASQUI"].map(|title| AeTitle::parse(title).unwrap());
        let classes = proposals(&[WORKLIST, COMMITMENT, PERFORMED_STEP, VERIFICATION]);
        let config = ScuConfig::new(calling, called);
        Association::open(self.address, config, &classes)
            .await
            .unwrap()
    }
}

fn class(uid: &str) -> SopClassUid {
    SopClassUid::parse(uid).unwrap()
}

fn operation(sop_class: &str, sop: &str, kind: OperationKind) -> Operation {
    Operation {
        sop_class: class(sop_class),
        sop: SopInstanceUid::parse(sop).unwrap(),
        kind,
        data_set: DataSet::default().with(tag::TRANSACTION, "1.2.3"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_answered_as_it_is_sent_and_ends_when_it_is_cancelled() {
    let world = World::new().await;
    let mut association = world.associate().await;
    let all = DataSet::default().with(tag::PATIENT_NAME, "*");
    let (found, answer) = association.find(&class(WORKLIST), &all, 3).await.unwrap();
    assert_eq!(answer.status, Status::CANCELLED);
    assert!(found.len() >= 3);
    // Few more were made than could be on their way when the cancel was sent.
    let made = world.made.load(Ordering::Relaxed);
    assert!(made < MATCHES / 2, "{made} matches were made");
    // The association goes on.
    assert_eq!(association.echo().await.unwrap(), Status::SUCCESS);
    association.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_matches_are_sent() {
    let world = World::new().await;
    let mut association = world.associate().await;
    let all = DataSet::default().with(tag::PATIENT_NAME, "*");
    let (found, answer) = association
        .find(&class(WORKLIST), &all, usize::MAX)
        .await
        .unwrap();
    assert_eq!(
        (found.len() as u64, answer.status),
        (MATCHES, Status::SUCCESS)
    );
    let last = found.last().unwrap().ascii(tag::ACCESSION_NUMBER);
    assert_eq!(last, Some("99999"));
}

#[tokio::test]
async fn a_query_that_is_refused_says_why() {
    let world = World::new().await;
    let mut association = world.associate().await;
    let locked = DataSet::default().with(tag::PATIENT_ID, "LOCKED");
    let (found, answer) = association
        .find(&class(WORKLIST), &locked, 1)
        .await
        .unwrap();
    assert_eq!((found.len(), answer.status), (0, Status::OUT_OF_RESOURCES));
    assert_eq!(answer.comment.as_deref(), Some("locked"));
}

#[tokio::test]
async fn an_event_comes_on_the_same_association_and_its_answer_is_heard() {
    let mut world = World::new().await;
    let mut association = world.associate().await;
    let act = operation(COMMITMENT, COMMITMENT_INSTANCE, OperationKind::Action(1));
    assert_eq!(association.operate(&act).await.unwrap(), Answer::success());
    let event = association.event().await.unwrap();
    assert_eq!(event.data_set, act.data_set);
    assert_eq!(event.event_type, 1);
    assert_eq!(world.heard.recv().await, Some(Heard::Operation(act.kind)));
    let answered = Heard::Answered(Some(Status::SUCCESS));
    assert_eq!(world.heard.recv().await, Some(answered));
}

#[tokio::test]
async fn an_event_that_the_peer_leaves_unanswered_is_known_to_be() {
    let mut world = World::new().await;
    let mut association = world.associate().await;
    let act = operation(COMMITMENT, COMMITMENT_INSTANCE, OperationKind::Action(1));
    association.operate(&act).await.unwrap();
    association.abort().await;
    assert_eq!(world.heard.recv().await, Some(Heard::Operation(act.kind)));
    assert_eq!(world.heard.recv().await, Some(Heard::Answered(None)));
}

#[tokio::test]
async fn each_context_allows_what_its_class_is_for() {
    let mut world = World::new().await;
    let mut association = world.associate().await;
    for (sop_class, kind, is_served) in [
        (PERFORMED_STEP, OperationKind::Create, true),
        (PERFORMED_STEP, OperationKind::Set, true),
        (PERFORMED_STEP, OperationKind::Action(1), false),
        (COMMITMENT, OperationKind::Action(7), true),
        (COMMITMENT, OperationKind::Create, false),
        (WORKLIST, OperationKind::Set, false),
        (VERIFICATION, OperationKind::Create, false),
    ] {
        let asked = operation(sop_class, "1.2.3.4", kind);
        let answer = association.operate(&asked).await.unwrap();
        let expected = if is_served {
            (Status::SUCCESS, Heard::Operation(kind))
        } else {
            let fault = RequestFault::NotServed(class(sop_class));
            (Status::UNRECOGNIZED_OPERATION, Heard::Fault(fault))
        };
        assert_eq!(answer.status, expected.0, "{asked:?}");
        assert_eq!(world.heard.recv().await, Some(expected.1));
    }
}

/// Sends what cannot be an identifier.
async fn refused(world: &mut World, data_set: DataSet) -> Answer {
    let mut association = world.associate().await;
    let asked = Operation {
        data_set,
        ..operation(PERFORMED_STEP, "1.2.3.4", OperationKind::Set)
    };
    let answer = association.operate(&asked).await.unwrap();
    assert_eq!(association.echo().await.unwrap(), Status::SUCCESS);
    let heard = world.heard.recv().await;
    assert!(matches!(heard, Some(Heard::Fault(_))), "{heard:?}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn data_sets_that_are_too_deep_or_too_large_are_refused_and_the_association_goes_on() {
    let mut world = World::new().await;
    let mut deep = DataSet::default();
    for _ in 0..1000 {
        deep = DataSet::default().with_items(tag::SCHEDULED_STEPS, vec![deep]);
    }
    let answer = refused(&mut world, deep).await;
    assert_eq!(answer.status, Status::CANNOT_UNDERSTAND);
    let item = DataSet::default().with(tag::REFERENCED_SOP_INSTANCE, "1.2.3.4.5.6.7.8.9");
    let large = DataSet::default().with_items(tag::REFERENCED_SOPS, vec![item; 100_000]);
    let answer = refused(&mut world, large).await;
    assert_eq!(answer.status, Status::RESOURCE_LIMITATION);
}

#[tokio::test]
async fn who_opens_the_association_may_be_the_provider() {
    // The provider's side answers roles; the peer is never made a provider there.
    let world = World::new().await;
    let [calling, called] = ["BOX", "CHASQUI"].map(|title| AeTitle::parse(title).unwrap());
    let config = ScuConfig {
        provides: vec![class(COMMITMENT)],
        ..ScuConfig::new(calling, called)
    };
    let classes = proposals(&[COMMITMENT]);
    let opened = Association::open(world.address, config, &classes).await;
    let mut association = opened.unwrap();
    let event = Event {
        sop_class: class(COMMITMENT),
        sop: SopInstanceUid::parse(COMMITMENT_INSTANCE).unwrap(),
        event_type: 1,
        data_set: DataSet::default(),
    };
    let told = association.tell(&event).await;
    let refused = matches!(&told, Ok(answer) if answer.status == Status::UNRECOGNIZED_OPERATION);
    assert!(
        refused || matches!(told, Err(ScuError::Aborted)),
        "{told:?}"
    );
}
