//! A provider on a free port with a service that remembers, and PDUs made by hand.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dimse::scp::{
    Contexts, Ending, Peer, Rejection, ScpConfig, Services, StoreCommand, StoreFault, StoreRequest,
    Tally, Visit, serve,
};
use dimse::scu::{Association, Proposal, ScuConfig, ScuError};
use dimse::{Answer, Status, VERIFICATION};
use study::{AeTitle, SopClassUid, SopInstanceUid, TransferSyntaxUid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

pub(crate) const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
pub(crate) const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";
/// What the service wants before each data set.
pub(crate) const HEAD: &[u8] = b"head of the file";
/// Nothing here takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Commands and data sets in the order in which they were stored.
pub(crate) type Stored = Arc<Mutex<Vec<(StoreCommand, Vec<u8>)>>>;

/// What the service heard.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    Opened(Contexts),
    Storing,
    Rejected(Rejection),
    Failed(Ending),
    Closed(Ending, Tally),
}

pub(crate) struct Service {
    pub(crate) stored: Stored,
    heard: mpsc::UnboundedSender<Heard>,
    /// Each store takes one permit for good; there is no end of them unless a test takes them away.
    pub(crate) gate: Arc<Semaphore>,
}

pub(crate) struct Guest {
    stored: Stored,
    heard: mpsc::UnboundedSender<Heard>,
    gate: Arc<Semaphore>,
}

impl Services for Service {
    type Visit = Guest;

    fn opened(&self, _: &Peer, contexts: &Contexts) -> Guest {
        let _ = self.heard.send(Heard::Opened(contexts.clone()));
        Guest {
            stored: Arc::clone(&self.stored),
            heard: self.heard.clone(),
            gate: Arc::clone(&self.gate),
        }
    }

    fn rejected(&self, _: &Peer, reason: &Rejection) {
        let _ = self.heard.send(Heard::Rejected(reason.clone()));
    }

    fn failed(&self, _: &Peer, ending: &Ending) {
        let _ = self.heard.send(Heard::Failed(ending.clone()));
    }
}

impl Visit for Guest {
    fn admit(&mut self, command: &StoreCommand) -> Result<Vec<u8>, Answer> {
        match command.sop.as_str() {
            "1.2.3.9999" => Err(Answer::failure(
                Status::OUT_OF_RESOURCES,
                "the disk is full",
            )),
            _ => Ok(HEAD.to_vec()),
        }
    }

    async fn store(&mut self, request: StoreRequest) -> Answer {
        let _ = self.heard.send(Heard::Storing);
        self.gate.acquire().await.unwrap().forget();
        let (head, data_set) = request.file.split_at(request.data_set_at);
        assert_eq!(head, HEAD);
        self.stored
            .lock()
            .unwrap()
            .push((request.command, data_set.to_vec()));
        Answer::success()
    }

    fn refuse(&mut self, fault: &StoreFault) -> Answer {
        let status = match fault {
            StoreFault::TooLarge { .. } | StoreFault::NoMemory => Status::OUT_OF_RESOURCES,
            StoreFault::ClassNotNegotiated { .. } => Status::SOP_CLASS_NOT_SUPPORTED,
            StoreFault::BadUid(_) | StoreFault::NoDataSet => Status::CANNOT_UNDERSTAND,
        };
        Answer::failure(status, fault.to_string())
    }

    fn closed(self, ending: &Ending, tally: &Tally) {
        let _ = self.heard.send(Heard::Closed(ending.clone(), *tally));
    }
}

/// A running provider.
pub(crate) struct Bench {
    pub(crate) address: SocketAddr,
    pub(crate) stored: Stored,
    pub(crate) gate: Arc<Semaphore>,
    heard: mpsc::UnboundedReceiver<Heard>,
    stop: Option<oneshot::Sender<()>>,
    pub(crate) served: JoinHandle<()>,
}

pub(crate) fn config() -> ScpConfig {
    ScpConfig::new(AeTitle::parse("CHASQUI").unwrap())
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(config()).await
    }

    pub(crate) async fn with(config: ScpConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, heard) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let stored = Stored::default();
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let service = Service {
            stored: Arc::clone(&stored),
            heard: told,
            gate: Arc::clone(&gate),
        };
        let served = tokio::spawn(serve(listener, config, Arc::new(service), async {
            let _ = stopped.await;
        }));
        Self {
            address,
            stored,
            gate,
            heard,
            stop: Some(stop),
            served,
        }
    }

    async fn next(&mut self) -> Heard {
        tokio::time::timeout(PATIENCE, self.heard.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// How the next association or connection ends.
    pub(crate) async fn ending(&mut self) -> Heard {
        loop {
            let heard = self.next().await;
            if !matches!(heard, Heard::Opened(_) | Heard::Storing) {
                return heard;
            }
        }
    }

    /// How the next association ends.
    pub(crate) async fn closed(&mut self) -> Ending {
        let heard = self.ending().await;
        let Heard::Closed(ending, _) = heard else {
            panic!("not closed but {heard:?}")
        };
        ending
    }

    pub(crate) async fn opened(&mut self) -> Contexts {
        let heard = self.next().await;
        let Heard::Opened(contexts) = heard else {
            panic!("not opened but {heard:?}")
        };
        contexts
    }

    /// Waits until the service is asked to store.
    pub(crate) async fn storing(&mut self) {
        while self.next().await != Heard::Storing {}
    }

    pub(crate) fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn associate(&self) -> Association {
        self.try_associate("CHASQUI", &proposals(&[CT, VERIFICATION]))
            .await
            .unwrap()
    }

    pub(crate) async fn try_associate(
        &self,
        called: &str,
        proposals: &[Proposal],
    ) -> Result<Association, ScuError> {
        let titles = [
            AeTitle::parse("CT1").unwrap(),
            AeTitle::parse(called).unwrap(),
        ];
        let [calling, called] = titles;
        Association::open(self.address, ScuConfig::new(calling, called), proposals).await
    }

    /// Shows that the provider still serves others.
    pub(crate) async fn assert_alive(&self) {
        let echo = async {
            let mut association = self.associate().await;
            assert_eq!(association.echo().await.unwrap(), Status::SUCCESS);
            association.release().await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(5), echo)
            .await
            .expect("others are served");
    }

    pub(crate) fn stored_data_sets(&self) -> Vec<Vec<u8>> {
        self.stored
            .lock()
            .unwrap()
            .iter()
            .map(|(_, bytes)| bytes.clone())
            .collect()
    }
}

pub(crate) fn proposals(classes: &[&str]) -> Vec<Proposal> {
    let one = |class: &&str| Proposal {
        sop_class: SopClassUid::parse(class).unwrap(),
        transfer_syntaxes: vec![TransferSyntaxUid::parse(EXPLICIT_LITTLE).unwrap()],
    };
    classes.iter().map(one).collect()
}

/// Stores under this SOP Instance UID.
pub(crate) async fn store(association: &mut Association, sop: &str, data_set: &[u8]) -> Answer {
    try_store(association, sop, data_set).await.unwrap()
}

pub(crate) async fn try_store(
    association: &mut Association,
    sop: &str,
    data_set: &[u8],
) -> Result<Answer, ScuError> {
    let instance = dimse::scu::Instance {
        sop_class: &SopClassUid::parse(CT).unwrap(),
        sop: &SopInstanceUid::parse(sop).unwrap(),
        transfer_syntax: &TransferSyntaxUid::parse(EXPLICIT_LITTLE).unwrap(),
        data_set,
    };
    association.store(instance).await
}

/// Bytes that look like nothing in particular, the same ones for the same seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..bytes).map(|_| random.next().to_le_bytes()[3]).collect()
}

/// xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0 ^ (self.0 >> 12);
        x ^= x << 25;
        x ^= x >> 27;
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound
    }
}

/// PDUs as bytes.
pub(crate) mod pdu {
    use super::{CT, EXPLICIT_LITTLE, VERIFICATION};

    pub(crate) const COMMAND: u8 = 1;
    pub(crate) const LAST: u8 = 2;
    pub(crate) const RELEASE: &[u8] = &[5, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    pub(crate) const ABORT: &[u8] = &[7, 0, 0, 0, 0, 4, 0, 0, 0, 0];

    pub(crate) fn pdu(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind, 0][..], &length, body].concat()
    }

    fn item(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind, 0][..], &length, body].concat()
    }

    /// A-ASSOCIATE-RQ: context 1 is CT, 3 is verification, both explicit little endian.
    pub(crate) fn request() -> Vec<u8> {
        let context = |id: u8, class: &str| {
            let class = item(0x30, class.as_bytes());
            let syntax = item(0x40, EXPLICIT_LITTLE.as_bytes());
            item(0x20, &[&[id, 0, 0, 0][..], &class, &syntax].concat())
        };
        let head = [
            &[0, 1, 0, 0][..],
            b"CHASQUI         RAW             ",
            &[0; 32],
            &item(0x10, b"1.2.840.10008.3.1.1.1"),
        ]
        .concat();
        let user = item(0x50, &item(0x51, &16_384_u32.to_be_bytes()));
        pdu(
            1,
            &[head, context(1, CT), context(3, VERIFICATION), user].concat(),
        )
    }

    pub(crate) fn value(context: u8, control: u8, fragment: &[u8]) -> Vec<u8> {
        let length = u32::try_from(fragment.len() + 2).unwrap().to_be_bytes();
        [&length[..], &[context, control], fragment].concat()
    }

    pub(crate) fn data(values: &[Vec<u8>]) -> Vec<u8> {
        pdu(4, &values.concat())
    }

    pub(crate) fn element(number: u16, value: &[u8]) -> Vec<u8> {
        let length = u32::try_from(value.len()).unwrap().to_le_bytes();
        [&[0, 0][..], &number.to_le_bytes(), &length, value].concat()
    }

    /// A command set: field, message ID, whether a data set follows, class, instance.
    pub(crate) fn command(field: u16, data_set_type: u16, class: &str, sop: &str) -> Vec<u8> {
        let even = |text: &str| format!("{text}{}", &"\0"[..text.len() % 2]).into_bytes();
        [
            element(0x0002, &even(class)),
            element(0x0100, &field.to_le_bytes()),
            element(0x0110, &7_u16.to_le_bytes()),
            element(0x0800, &data_set_type.to_le_bytes()),
            element(0x1000, &even(sop)),
        ]
        .concat()
    }

    pub(crate) fn store_command(sop: &str) -> Vec<u8> {
        command(0x0001, 0, CT, sop)
    }

    /// A whole C-STORE-RQ, command and data set in a PDU each.
    pub(crate) fn store(sop: &str, data_set: &[u8]) -> Vec<u8> {
        let command = data(&[value(1, COMMAND | LAST, &store_command(sop))]);
        [command, data(&[value(1, LAST, data_set)])].concat()
    }

    pub(crate) fn echo() -> Vec<u8> {
        let command = command(0x0030, 0x0101, VERIFICATION, "");
        data(&[value(3, COMMAND | LAST, &command)])
    }
}

/// A raw connection.
pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn connect(bench: &Bench) -> Self {
        let stream = TcpStream::connect(bench.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Connects and has an association accepted.
    pub(crate) async fn open(bench: &Bench) -> Self {
        let mut raw = Self::connect(bench).await;
        raw.send(&pdu::request()).await;
        assert_eq!(raw.receive().await.unwrap()[0], 2, "an A-ASSOCIATE-AC");
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Reads one PDU; none at the end of the connection.
    pub(crate) async fn receive(&mut self) -> Option<Vec<u8>> {
        let read = async {
            let mut bytes = vec![0; 6];
            self.0.read_exact(&mut bytes).await.ok()?;
            let length = u32::from_be_bytes(bytes[2..6].try_into().unwrap()) as usize;
            bytes.resize(6 + length, 0);
            self.0.read_exact(&mut bytes[6..]).await.ok()?;
            Some(bytes)
        };
        tokio::time::timeout(PATIENCE, read)
            .await
            .expect("an answer or an end")
    }

    /// Reads the status of a response.
    pub(crate) async fn status(&mut self) -> u16 {
        let mut command = Vec::new();
        loop {
            let pdu = self.receive().await.expect("a response");
            assert_eq!(pdu[0], 4, "a P-DATA-TF");
            command.extend_from_slice(&pdu[12..]);
            if pdu[11] & pdu::LAST != 0 {
                break;
            }
        }
        let mark = [0, 0, 0, 9, 2, 0, 0, 0];
        let at = command
            .windows(8)
            .position(|w| w == mark)
            .expect("a status")
            + 8;
        u16::from_le_bytes([command[at], command[at + 1]])
    }

    /// Asserts that an A-ABORT of the provider with this reason comes, and then the end.
    pub(crate) async fn assert_aborted(&mut self, reason: u8) {
        let pdu = self.receive().await.expect("an A-ABORT");
        assert_eq!(pdu, [7, 0, 0, 0, 0, 4, 0, 0, 2, reason]);
        assert_eq!(self.receive().await, None);
    }
}
