//! How threads are started: with a name, a small stack, and a rule for panics. Also a small pool, and threads that are reused.
//!
//! A panic in a session's thread ends only that session. Every other thread is critical: without it the state of the
//! process would be undefined, so the process ends, and its supervisor restarts it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use corosensei::on_stack;
use corosensei::stack::DefaultStack;
use crossbeam_channel::{Sender, bounded};

use crate::limits::{CONNECTION_STACK as STACK, MAX_SPARE_STACKS, Slots};

/// `EX_SOFTWARE` in `sysexits.h`: an internal error.
const INTERNAL_ERROR: i32 = 70;
/// The size of a temporary stack, in bytes: twice the most that parsing a Redis reply takes, and what its caller takes. Only
/// what is used is in memory. A debug build takes several times as much.
const TEMPORARY_STACK: usize = if cfg!(debug_assertions) { 1280 } else { 256 } * 1024;
/// The most temporary stacks that are kept for reuse: a new one takes three system calls and some page faults, together a
/// third of the time that a join takes, and other threads wait meanwhile if they need memory.
const MAX_KEPT: usize = 16;
/// How many threads wait for another connection when theirs has ended, and for how long. To start and end a thread takes almost a
/// third of the time that a short connection costs: the system reserves two stacks for it, and frees them.
const MAX_SPARE_THREADS: usize = 32;
const SPARE_TIME: Duration = Duration::from_secs(2);
static SPARE_STACKS: LazyLock<Arc<Slots>> = LazyLock::new(|| Slots::new(MAX_SPARE_STACKS));
static KEPT_STACKS: Mutex<Vec<DefaultStack>> = Mutex::new(Vec::new());

thread_local! {
    static HAS_AMPLE_STACK: Cell<bool> = const { Cell::new(false) };
}

/// Starts a thread whose panic ends the process.
///
/// # Errors
/// The system cannot start a thread.
pub fn spawn_critical(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let label = name.to_owned();
    Builder::new().name(name.to_owned()).spawn(move || {
        HAS_AMPLE_STACK.set(true); // Rust's default of 2 MiB
        // The standard hook has already printed the panic to stderr.
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            // Even if logging panics too, the process must end.
            let _ = catch_unwind(|| log::error!("thread {label} panicked, so the process ends"));
            process::exit(INTERNAL_ERROR);
        }
    })
}

/// Threads whose connections have ended, and the connections that are waiting for them.
struct Spare {
    threads: usize,
    jobs: VecDeque<Job>,
}

static SPARE: Mutex<Spare> = Mutex::new(Spare { threads: 0, jobs: VecDeque::new() });
static SPARE_WANTED: Condvar = Condvar::new();

fn spare() -> MutexGuard<'static, Spare> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves a connection on a thread of its own, with a stack of `STACK` bytes: on one whose connection has ended, if there is one.
///
/// # Errors
/// The system cannot start a thread.
pub fn spawn_connection(number: u64, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut spare = spare();
    // Each job in the queue is for one of these threads.
    if spare.threads > spare.jobs.len() {
        spare.jobs.push_back(Box::new(body));
        drop(spare);
        SPARE_WANTED.notify_one();
        return Ok(());
    }
    drop(spare);
    let serve = move || {
        let mut next: Option<Job> = Some(Box::new(body));
        while let Some(job) = next {
            // A panic, which the standard hook has printed, ends only this connection.
            let _ = catch_unwind(AssertUnwindSafe(job));
            next = next_connection();
        }
    };
    Builder::new().name(format!("conn-{number}")).stack_size(STACK).spawn(serve).map(drop)
}

/// Waits for another connection; `None` if there are enough spare threads, or none comes in time.
fn next_connection() -> Option<Job> {
    let mut spare = spare();
    if spare.threads >= MAX_SPARE_THREADS {
        return None;
    }
    spare.threads += 1;
    let waited = SPARE_WANTED.wait_timeout_while(spare, SPARE_TIME, |spare| spare.jobs.is_empty());
    let (mut spare, _) = waited.unwrap_or_else(PoisonError::into_inner);
    spare.threads -= 1;
    spare.jobs.pop_front()
}

/// A few threads that run jobs in the order in which they were queued.
pub struct Workers(Sender<Job>);

type Job = Box<dyn FnOnce() + Send>;

impl Workers {
    /// Starts `count` threads. At most `queue` jobs wait. The threads end when this is dropped.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(name: &str, count: usize, queue: usize) -> io::Result<Workers> {
        let (to, jobs) = bounded::<Job>(queue);
        for number in 1..=count {
            let jobs = jobs.clone();
            // A job is on behalf of one session, so its panic, which has been printed, ends only the job.
            let run = move || jobs.iter().for_each(|job| drop(catch_unwind(AssertUnwindSafe(job))));
            spawn_critical(&format!("{name}-{number}"), run)?;
        }
        Ok(Workers(to))
    }

    /// Queues a job. Returns whether there was space for it.
    pub fn try_run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        self.0.try_send(Box::new(job)).is_ok()
    }
}

/// Runs `work` on a temporary stack. Stack pages, once touched, stay in memory as long as their thread lives, and
/// sessions live long. If all temporary stacks are in use, `work` runs on the thread's own stack.
pub fn on_temporary_stack<R>(work: impl FnOnce() -> R) -> R {
    match SPARE_STACKS.take() {
        Some(_slot) => on_ample_stack(work),
        None => work(),
    }
}

/// Runs `work`, such as parsing a nested Redis reply, on a stack that is large enough for anything: a temporary one, unless the
/// current one is.
///
/// # Panics
/// There is no memory for a stack, or `work` panics.
pub fn on_ample_stack<R>(work: impl FnOnce() -> R) -> R {
    if HAS_AMPLE_STACK.get() {
        return work();
    }
    let kept = || KEPT_STACKS.lock().unwrap_or_else(PoisonError::into_inner);
    let new = || DefaultStack::new(TEMPORARY_STACK).expect("memory for a stack");
    let last = kept().pop();
    let mut stack = last.unwrap_or_else(new);
    let result = on_stack(&mut stack, || {
        HAS_AMPLE_STACK.set(true);
        let result = catch_unwind(AssertUnwindSafe(work));
        HAS_AMPLE_STACK.set(false);
        result
    });
    let mut kept = kept();
    if kept.len() < MAX_KEPT {
        kept.push(stack);
    }
    drop(kept);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Instant;

    /// Runs itself in a second process, in which the thread panics.
    #[test]
    fn a_panic_in_a_critical_thread_ends_the_process() {
        if std::env::var_os("PANIC").is_some() {
            let thread = spawn_critical("doomed", || panic!("as planned")).expect("a thread");
            let _ = thread.join();
            return;
        }
        let mut again = process::Command::new(std::env::current_exe().expect("this test"));
        again.args(["--exact", "threads::tests::a_panic_in_a_critical_thread_ends_the_process"]);
        let ended = again.env("PANIC", "1").output().expect("it runs");
        assert_eq!(ended.status.code(), Some(INTERNAL_ERROR));
    }

    #[test]
    fn jobs_are_bounded_and_outlive_a_panic() {
        let workers = Workers::start("test", 1, 1).expect("a thread");
        let (release, held) = bounded::<()>(0);
        let (to, done) = bounded(2);
        assert!(workers.try_run(move || held.recv().unwrap_or_else(|_| panic!("as planned"))));
        // The first job is taken off the queue at some point; then there is space for one more.
        let queue = |number: u32| {
            let to = to.clone();
            workers.try_run(move || to.send(number).expect("the test receives"))
        };
        while !queue(1) {
            std::thread::yield_now();
        }
        assert!(!queue(2), "one runs and one waits");
        drop(release);
        assert_eq!(done.recv(), Ok(1));
    }

    #[test]
    fn a_thread_serves_one_connection_after_another() {
        let (to, threads) = bounded(1);
        let serve = || {
            let to = to.clone();
            let body = move || {
                to.send(std::thread::current().id()).expect("the test receives");
                panic!("as planned");
            };
            spawn_connection(1, body).expect("a thread");
            let thread = threads.recv().expect("it runs");
            let end = Instant::now() + SPARE_TIME / 2;
            while spare().threads == 0 && Instant::now() < end {
                std::thread::yield_now();
            }
            thread
        };
        // On a busy machine some may have waited in vain.
        let threads: HashSet<_> = (0..10).map(|_| serve()).collect();
        assert!(threads.len() < 10, "a new thread for each");
    }

    #[test]
    fn work_is_done_with_and_without_a_temporary_stack() {
        let here = || {
            let local = std::hint::black_box(0_u8);
            std::ptr::from_ref(&local) as usize
        };
        let is_elsewhere = || here().abs_diff(on_temporary_stack(here)) > STACK;
        assert!(is_elsewhere());
        assert!(on_temporary_stack(|| here().abs_diff(on_ample_stack(here))) < STACK, "one is enough");
        assert!(catch_unwind(|| on_temporary_stack(|| panic!("as planned"))).is_err());
        let all: Vec<_> = std::iter::from_fn(|| SPARE_STACKS.take()).collect();
        assert_eq!(all.len(), MAX_SPARE_STACKS, "a panic gives its stack back");
        assert!(!is_elsewhere(), "none is left, so it is done here");
        drop(all);
        assert!(is_elsewhere());
    }
}
