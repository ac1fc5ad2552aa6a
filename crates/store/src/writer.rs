//! The one thread that writes, and the group commit.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::appender::Appender;
use crate::database::{BUSY_WAIT, empty_log};
use crate::doomed::{self, Doomed};
use crate::error::StoreError;
use crate::name::{Location, SegmentName};
use crate::record::Record;
use crate::segments::Segments;

const GROUP_JOBS_MAX: usize = 64;
const GROUP_TIME_MAX: Duration = Duration::from_millis(10);
/// How many jobs wait before those who bring more have to wait themselves.
const QUEUE_JOBS_MAX: usize = 2 * GROUP_JOBS_MAX;
/// How long emptying the log waits for readers.
const LOG_WAIT: Duration = Duration::from_millis(250);
const PREPARED_STATEMENTS_MAX: usize = 128;

/// Proof that what it holds was synced to the disk and committed; only the writer makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced<T>(T);

impl<T> Synced<T> {
    /// What the job returned.
    pub fn get(&self) -> &T {
        &self.0
    }

    /// What the job returned, without the proof.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// Says the same of something that follows from it.
    pub fn map<U>(self, follow: impl FnOnce(T) -> U) -> Synced<U> {
        Synced(follow(self.0))
    }
}

/// Why a job did not take effect.
#[derive(Debug, Error)]
pub enum WriteError<E> {
    /// The job itself returned this; nothing of it is left behind.
    #[error("the job failed")]
    Job(#[source] E),
    /// A sync or a commit has failed, of this job or an earlier one: nothing is known of the disk any more,
    /// and nothing will be written. The program has to exit.
    #[error("the store is poisoned by a failed sync or commit")]
    Poisoned,
}

/// What a job works with.
pub struct Work<'a> {
    connection: &'a Connection,
    appender: &'a mut Appender,
    removing: &'a mut bool,
}

impl Work<'_> {
    /// The index, inside this job's savepoint. A job may make savepoints of its own, but never `BEGIN`, `COMMIT`
    /// or `ROLLBACK`.
    pub fn sql(&self) -> &Connection {
        self.connection
    }

    /// Appends a record to the last segment of `family` (1 to 64 characters of `a-z`, `0-9`, `-`).
    ///
    /// On an error nothing of the record is left, and the job may go on without it.
    pub fn append(&mut self, family: &str, record: &Record) -> Result<Location, StoreError> {
        self.append_run(family, std::slice::from_ref(record))
    }

    /// Appends records one right behind the other, and gives the place of all of them as one, which is what
    /// [`Segments::read_run`] takes. They lie in one segment; a run larger than segments are gets its own.
    ///
    /// On an error nothing of any of them is left, and the job may go on without them.
    pub fn append_run(&mut self, family: &str, records: &[Record]) -> Result<Location, StoreError> {
        self.appender.append(family, records)
    }

    /// Makes durable what was appended so far, before anything that follows is written: of the two a power cut
    /// then never leaves the second alone. Costs a sync of its own.
    pub fn sync_so_far(&mut self) -> Result<(), StoreError> {
        self.appender.sync_so_far()
    }

    /// Unlinks a segment once this job is committed, a crash in between notwithstanding.
    ///
    /// That no row refers to it any more is for the job to know. Nothing is appended to it from here on.
    pub fn remove_segment_after_commit(&mut self, segment: &SegmentName) -> Result<(), StoreError> {
        self.doom(segment, false)
    }

    /// Does what [`Work::remove_segment_after_commit`] does, and overwrites the file's bytes with zeros, synced,
    /// before it is unlinked. The writer waits for that: for small segments.
    ///
    /// What this is worth on flash is said [there](crate#wiping).
    pub fn wipe_segment_after_commit(&mut self, segment: &SegmentName) -> Result<(), StoreError> {
        self.doom(segment, true)
    }

    fn doom(&mut self, segment: &SegmentName, wipe: bool) -> Result<(), StoreError> {
        self.appender.close(segment);
        let segment = segment.clone();
        doomed::doom(self.connection, &Doomed { segment, wipe })?;
        *self.removing = true;
        Ok(())
    }
}

type Job = Box<dyn FnOnce(&mut Work<'_>) -> Ran + Send>;
type Answer = Box<dyn FnOnce() + Send>;

/// What the thread is asked for.
enum Task {
    Run(Job),
    /// To be done between two groups.
    TruncateLog(oneshot::Sender<Result<(), WriteError<StoreError>>>),
}

/// How a job ended, and how to tell who waits for it. To drop the answer of a job that went well is to say
/// that the writer is poisoned.
enum Ran {
    Well(Answer),
    Badly(Answer),
}

/// Gives jobs to the thread that writes. Clones share the thread; when the last one is dropped, it finishes what
/// is queued and is waited for.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    segments: Arc<Segments>,
    fault: Arc<OnceLock<Arc<StoreError>>>,
    /// Both are there until the drop.
    queue: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `connection` comes from [`open_database`](crate::open_database), and nothing else may
    /// write to that database or to these segments.
    pub fn spawn(segments: Segments, connection: Connection) -> Result<Self, StoreError> {
        connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS_MAX);
        let segments = Arc::new(segments);
        let fault = Arc::new(OnceLock::new());
        let (queue, tasks) = mpsc::channel(QUEUE_JOBS_MAX);
        let thread = WriterThread {
            tasks,
            connection,
            appender: Appender::new(Arc::clone(&segments)),
            unlinked: Vec::new(),
            removing: false,
        };
        let told = Arc::clone(&fault);
        let start = move || thread.run(&told);
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(start);
        let thread = thread.map_err(StoreError::io("start", "the writer's thread"))?;
        Ok(Self {
            shared: Arc::new(Shared {
                segments,
                fault,
                queue: Some(queue),
                thread: Some(thread),
            }),
        })
    }

    /// Runs a job and waits until its effect is on the disk.
    ///
    /// Once queued, a job runs even if nobody waits for it any more. It runs on the writer's thread, and all other
    /// jobs wait for it: what can be computed before should be.
    pub async fn run<R, E>(
        &self,
        job: impl FnOnce(&mut Work<'_>) -> Result<R, E> + Send + 'static,
    ) -> Result<Synced<R>, WriteError<E>>
    where
        R: Send + 'static,
        E: Send + 'static,
    {
        let (task, answer) = task_of(job);
        self.shared
            .queue()
            .send(task)
            .await
            .map_err(|_| WriteError::Poisoned)?;
        answer.await.unwrap_or(Err(WriteError::Poisoned))
    }

    /// Does what [`Writer::run`] does, on a thread that may block; panics in async code.
    pub fn run_blocking<R, E>(
        &self,
        job: impl FnOnce(&mut Work<'_>) -> Result<R, E> + Send + 'static,
    ) -> Result<Synced<R>, WriteError<E>>
    where
        R: Send + 'static,
        E: Send + 'static,
    {
        let (task, answer) = task_of(job);
        self.shared
            .queue()
            .blocking_send(task)
            .map_err(|_| WriteError::Poisoned)?;
        answer.blocking_recv().unwrap_or(Err(WriteError::Poisoned))
    }

    /// Puts what is in the index's log (its `-wal` file) into the index and makes the log empty, so that rows that
    /// were deleted before are in neither.
    ///
    /// Done between groups of jobs. While a reader still looks at a moment that is in the log it is
    /// [`StoreError::LogInUse`], and may be tried again. What was deleted is in the index as zeros in any case.
    pub async fn truncate_log(&self) -> Result<(), WriteError<StoreError>> {
        let (tell, answer) = oneshot::channel();
        self.shared
            .queue()
            .send(Task::TruncateLog(tell))
            .await
            .map_err(|_| WriteError::Poisoned)?;
        answer.await.unwrap_or(Err(WriteError::Poisoned))
    }

    /// Does what [`Writer::truncate_log`] does, on a thread that may block; panics in async code.
    pub fn truncate_log_blocking(&self) -> Result<(), WriteError<StoreError>> {
        let (tell, answer) = oneshot::channel();
        self.shared
            .queue()
            .blocking_send(Task::TruncateLog(tell))
            .map_err(|_| WriteError::Poisoned)?;
        answer.blocking_recv().unwrap_or(Err(WriteError::Poisoned))
    }

    /// The segments, to read from.
    pub fn segments(&self) -> &Arc<Segments> {
        &self.shared.segments
    }

    /// Waits until the writer is poisoned, for ever if all goes well, and says by what.
    pub async fn poisoned(&self) -> Arc<StoreError> {
        self.shared.queue().closed().await;
        self.shared
            .fault
            .get()
            .cloned()
            .unwrap_or_else(|| Arc::new(StoreError::WriterPanicked))
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("fault", &self.shared.fault.get())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn queue(&self) -> &mpsc::Sender<Task> {
        self.queue.as_ref().expect("taken by drop only")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue = None;
        // A job that holds the last clone of its own writer must not wait for itself.
        if let Some(thread) = self
            .thread
            .take()
            .filter(|t| t.thread().id() != thread::current().id())
        {
            // A panic over there has been told by its own message, and to those who waited.
            let _ = thread.join();
        }
    }
}

type AnswerOf<R, E> = oneshot::Receiver<Result<Synced<R>, WriteError<E>>>;

fn task_of<R: Send + 'static, E: Send + 'static>(
    job: impl FnOnce(&mut Work<'_>) -> Result<R, E> + Send + 'static,
) -> (Task, AnswerOf<R, E>) {
    let (tell, answer) = oneshot::channel();
    // Who has stopped waiting is not told.
    let job: Job = Box::new(move |work| match job(work) {
        Ok(result) => Ran::Well(Box::new(move || drop(tell.send(Ok(Synced(result)))))),
        Err(error) => Ran::Badly(Box::new(move || {
            drop(tell.send(Err(WriteError::Job(error))))
        })),
    });
    (Task::Run(job), answer)
}

struct WriterThread {
    tasks: mpsc::Receiver<Task>,
    connection: Connection,
    appender: Appender,
    /// Gone from the folder; their rows go with the next commit.
    unlinked: Vec<SegmentName>,
    /// A job has put a segment on the list of the doomed since the last commit.
    removing: bool,
}

impl WriterThread {
    fn run(mut self, fault: &OnceLock<Arc<StoreError>>) {
        let mut next = self.tasks.blocking_recv();
        while let Some(task) = next {
            let done = match task {
                Task::Run(first) => self.run_group(first),
                Task::TruncateLog(tell) => self.truncate_log(tell).map(|()| None),
            };
            next = match done {
                Ok(Some(left_over)) => Some(left_over),
                Ok(None) => self.tasks.blocking_recv(),
                Err(error) => {
                    let _ = fault.set(Arc::new(error));
                    return;
                }
            };
        }
    }

    /// Returns what came from the queue and does not belong to a group. An error here is fatal; the answers not
    /// yet given are dropped, which says so.
    fn run_group(&mut self, first: Job) -> Result<Option<Task>, StoreError> {
        self.connection
            .prepare_cached("BEGIN IMMEDIATE")?
            .execute(())?;
        self.forget_unlinked()?;
        let started = Instant::now();
        let mut answers: Vec<Answer> = Vec::new();
        let mut jobs = 0;
        let mut next = Some(Task::Run(first));
        while let Some(Task::Run(job)) = next {
            answers.extend(self.run_job(job)?);
            jobs += 1;
            let full = jobs >= GROUP_JOBS_MAX || started.elapsed() >= GROUP_TIME_MAX;
            next = if full {
                None
            } else {
                self.tasks.try_recv().ok()
            };
        }
        self.appender.sync()?;
        self.connection.prepare_cached("COMMIT")?.execute(())?;
        if std::mem::take(&mut self.removing) {
            self.remove_doomed()?;
        }
        answers.into_iter().for_each(|answer| answer());
        Ok(next)
    }

    /// Returns the answer to be given after the commit, if the job went well.
    fn run_job(&mut self, job: Job) -> Result<Option<Answer>, StoreError> {
        self.connection
            .prepare_cached("SAVEPOINT job")?
            .execute(())?;
        self.appender.begin_job();
        let work = &mut Work {
            connection: &self.connection,
            appender: &mut self.appender,
            removing: &mut self.removing,
        };
        match job(work) {
            Ran::Well(answer) => {
                self.connection.prepare_cached("RELEASE job")?.execute(())?;
                Ok(Some(answer))
            }
            Ran::Badly(answer) => {
                // Fails if the job's error has made SQLite give up the whole transaction, other jobs' rows included.
                self.connection
                    .prepare_cached("ROLLBACK TO job")?
                    .execute(())?;
                self.connection.prepare_cached("RELEASE job")?.execute(())?;
                self.appender.undo_job();
                answer();
                Ok(None)
            }
        }
    }

    fn truncate_log(
        &mut self,
        tell: oneshot::Sender<Result<(), WriteError<StoreError>>>,
    ) -> Result<(), StoreError> {
        // Everybody who writes waits meanwhile.
        self.connection.busy_timeout(LOG_WAIT)?;
        let emptied = empty_log(&self.connection);
        self.connection.busy_timeout(BUSY_WAIT)?;
        let said = match emptied.map_err(StoreError::from) {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::LogInUse),
            // The log is as it was; what is in it is in it still.
            Err(error) if error.is_full() => Err(error),
            Err(error) => return Err(error),
        };
        // Who has stopped waiting is not told.
        let _ = tell.send(said.map_err(WriteError::Job));
        Ok(())
    }

    fn forget_unlinked(&mut self) -> Result<(), StoreError> {
        for segment in std::mem::take(&mut self.unlinked) {
            doomed::forget(&self.connection, &segment)?;
        }
        Ok(())
    }

    fn remove_doomed(&mut self) -> Result<(), StoreError> {
        let doomed = doomed::list(&self.connection)?;
        self.appender.remove(&doomed)?;
        self.unlinked = doomed.into_iter().map(|doomed| doomed.segment).collect();
        Ok(())
    }
}
