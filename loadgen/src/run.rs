//! The course of a run: threads started, phases moved on when their time has come, counters read at the
//! edges of the measured window, progress shown.
//!
//! Doesn't touch connections and doesn't know the workload. Called by the commands in `main`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use crate::check::Faults;
use crate::control::{Control, Counters, Phase, Plan, Window, share};
use crate::deflate::Tally;
use crate::engine::{Engine, Finished, Workload};
use crate::latency::{Latencies, SECOND};
use crate::procfs::{self, CoreTime, CpuTime, Memory};

/// How often the controller looks.
const LOOK: Duration = Duration::from_millis(5);
/// How often the rate is noted.
const POINT: u64 = SECOND / 5;
/// Nothing received for so long after the connections are there: they have settled.
const QUIET_BEFORE: u64 = SECOND / 5;
/// How long servers have to answer the goodbye.
const GOODBYE: u64 = 2 * SECOND;

/// How long each part of a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Sending.
    pub seconds: f64,
    /// The part of it at the start that isn't measured.
    pub warmup: f64,
    /// Rest between the last sign-in and the look at the server's memory.
    pub settle: f64,
    /// Rest between the last message and the second look at the server's memory; none: at the end of the window.
    pub rest: Option<f64>,
}

/// The sums of all threads' counters and the server's CPU time at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// When.
    pub at: u64,
    /// Messages that count for the workload.
    pub messages: u64,
    /// Messages sent.
    pub sent: u64,
    /// Data frames.
    pub frames: u64,
    /// `recv` calls that brought data.
    pub receives: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// The server's CPU time.
    pub server_cpu: Option<CpuTime>,
    /// How the server's own CPUs spent their time.
    pub server_cores: Option<CoreTime>,
}

/// What happened between two snapshots.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    /// The counters; `at` is how long it took.
    pub counts: Snapshot,
    /// The server's CPU time, in nanoseconds.
    pub server_cpu: Option<u64>,
    /// How long its threads were ready to run without a CPU, in nanoseconds.
    pub server_waited: Option<u64>,
    /// How the CPUs that it is kept on spent their time.
    pub server_cores: Option<CoreTime>,
}

impl Snapshot {
    /// What happened between `earlier` and this.
    pub fn since(&self, earlier: &Self) -> Difference {
        let cpu = self.server_cpu.zip(earlier.server_cpu);
        let counts = Self {
            at: self.at - earlier.at,
            messages: self.messages - earlier.messages,
            sent: self.sent - earlier.sent,
            frames: self.frames - earlier.frames,
            receives: self.receives - earlier.receives,
            bytes_in: self.bytes_in - earlier.bytes_in,
            bytes_out: self.bytes_out - earlier.bytes_out,
            server_cpu: None,
            server_cores: None,
        };
        let server_cpu = cpu.map(|(now, before)| now.since(&before));
        let server_waited = cpu.map(|(now, before)| now.waited_since(&before));
        let server_cores = self.server_cores.zip(earlier.server_cores).map(|(now, before)| now.since(&before));
        Difference { counts, server_cpu, server_waited, server_cores }
    }
}

/// The rate at one moment of the work.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Point {
    /// Since the first message.
    pub seconds: f64,
    /// Messages received a second.
    pub per_second: f64,
}

/// How a load thread spent a phase, in parts of the wall time.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Busy {
    /// On a CPU.
    pub used: f64,
    /// Ready to run without one.
    pub waited: f64,
}

/// All that a run found.
pub struct Measured<W> {
    /// The threads' workloads with their findings.
    pub workloads: Vec<W>,
    /// Cut and failed connections.
    pub faults: Faults,
    /// What went wrong first.
    pub examples: Vec<String>,
    /// Connections that signed in.
    pub ready: u64,
    /// From the first connection's start until all were signed in or had failed.
    pub connecting: Difference,
    /// The measured window; none if it didn't come to that.
    pub window: Option<Difference>,
    /// Start of connecting to end of upgrade.
    pub upgraded: Latencies,
    /// Start of connecting to end of sign-in.
    pub signed_in: Latencies,
    /// Intended time of coming back to end of sign-in.
    pub returned: Latencies,
    /// How busy each thread was: while connecting, and while working.
    pub busy: [Vec<Busy>; 2],
    /// The server's memory before, and with all connections idle.
    pub memory: Option<(Memory, Memory)>,
    /// The server's memory at the end of the measured window.
    pub memory_after: Option<Memory>,
    /// What came and went over time.
    pub timeline: Vec<Point>,
    /// Messages sent and received over the whole run.
    pub total: Snapshot,
    /// What was offered to compress, if anything was.
    pub offer: Option<String>,
    /// What was agreed on, and came compressed.
    pub compression: Tally,
    /// Ended by a signal.
    pub interrupted: bool,
}

struct Course<'a> {
    control: &'a Control,
    times: Times,
    pid: Option<u32>,
    /// The CPUs that the server is kept on, if it is kept on some.
    server_cpus: Option<Vec<usize>>,
    interrupted: &'a AtomicBool,
    bar: ProgressBar,
    failed: &'a AtomicBool,
}

/// Runs `make(thread, slots)`'s workloads according to `plan`.
pub fn run<W: Workload>(
    plan: Plan,
    times: Times,
    pid: Option<u32>,
    interrupted: &Arc<AtomicBool>,
    make: impl Fn(usize, usize) -> W,
) -> Result<Measured<W>> {
    let control = Control::new(plan);
    let failed = AtomicBool::new(false);
    let (connections, threads) = (control.plan.connections, control.plan.threads);
    let memory = pid.and_then(procfs::memory);
    let (course, finished) = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|index| {
                let workload = make(index, share(connections, index, threads));
                let (control, failed) = (&control, &failed);
                scope.spawn(move || {
                    let engine = Engine::new(control, index, workload);
                    let finished = engine.and_then(Engine::run);
                    failed.fetch_or(finished.is_err(), Relaxed);
                    finished
                })
            })
            .collect();
        let server_cpus = pid.and_then(procfs::kept_on);
        let bar = progress_bar();
        let course = Course { control: &control, times, pid, server_cpus, interrupted, bar, failed: &failed };
        let outcome = course.follow();
        let joined = handles.into_iter().map(|handle| {
            let finished = handle.join();
            finished.unwrap_or_else(|_| Err(anyhow!("a load thread panicked")))
        });
        (outcome, joined.collect::<Result<Vec<_>>>())
    });
    let mut measured = gather(finished?, course.connecting);
    measured.ready = sum(&control, |counters| &counters.ready);
    measured.window = course.window;
    measured.memory = memory.zip(course.memory);
    measured.memory_after = course.memory_after;
    measured.timeline = course.timeline;
    measured.total = course.total;
    measured.offer = control.plan.compression.as_ref().map(|settings| settings.offer.text().to_owned());
    measured.interrupted = interrupted.load(Relaxed);
    Ok(measured)
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(1_000);
    let style = ProgressStyle::with_template("{prefix:>10} [{bar:40}] {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

fn sum(control: &Control, field: impl Fn(&Counters) -> &AtomicU64) -> u64 {
    let counters = control.counters.iter();
    counters.map(|each| field(each).load(Relaxed)).sum()
}

struct Followed {
    connecting: Difference,
    window: Option<Difference>,
    memory: Option<Memory>,
    memory_after: Option<Memory>,
    timeline: Vec<Point>,
    total: Snapshot,
}

impl Course<'_> {
    fn follow(&self) -> Followed {
        let before = self.snapshot();
        self.connect();
        let connecting = self.snapshot().since(&before);
        let all_ready = sum(self.control, |c| &c.ready) == self.control.plan.first() as u64;
        let (mut window, mut memory, mut memory_after) = (None, None, None);
        let mut timeline = Vec::new();
        if all_ready && !self.over() {
            self.settle();
            memory = self.pid.and_then(procfs::memory);
            window = Some(self.work(&mut timeline));
            memory_after = self.pid.and_then(procfs::memory);
            self.drain();
            if let Some(rest) = self.times.rest {
                thread::sleep(Duration::from_secs_f64(rest));
                memory_after = self.pid.and_then(procfs::memory);
            }
        }
        let total = self.snapshot();
        // A thread sees a new phase after its nap at the latest, and publishes its counters then.
        self.control.enter(Phase::Freeze);
        thread::sleep(LOOK * 4);
        self.control.enter(Phase::Close);
        let deadline = self.now() + GOODBYE;
        thread::sleep(LOOK * 4);
        while sum(self.control, |c| &c.open) > 0 && self.now() < deadline && !self.broken() {
            thread::sleep(LOOK);
        }
        self.control.enter(Phase::End);
        self.bar.finish_and_clear();
        Followed { connecting, window, memory, memory_after, timeline, total }
    }

    fn now(&self) -> u64 {
        self.control.clock.now()
    }

    fn broken(&self) -> bool {
        self.failed.load(Relaxed)
    }

    fn over(&self) -> bool {
        self.interrupted.load(Relaxed) || self.broken()
    }

    fn snapshot(&self) -> Snapshot {
        let control = self.control;
        Snapshot {
            at: self.now(),
            messages: sum(control, |c| &c.messages),
            sent: sum(control, |c| &c.sent),
            frames: sum(control, |c| &c.frames),
            receives: sum(control, |c| &c.receives),
            bytes_in: sum(control, |c| &c.bytes_in),
            bytes_out: sum(control, |c| &c.bytes_out),
            server_cpu: self.pid.and_then(procfs::cpu_time),
            server_cores: self.server_cpus.as_deref().and_then(procfs::core_time),
        }
    }

    fn show(&self, what: &'static str, part: f64, message: impl FnOnce() -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_prefix(what);
            self.bar.set_position((part.clamp(0.0, 1.0) * 1e3) as u64);
            self.bar.set_message(message());
        }
    }

    /// Until every connection is signed in or has failed. Each has its own deadline.
    fn connect(&self) {
        let all = self.control.plan.first() as u64;
        loop {
            let ready = sum(self.control, |c| &c.ready);
            let failed = sum(self.control, |c| &c.failed);
            self.show("connect", ready as f64 / all as f64, || format!("{ready} of {all}, {failed} failed"));
            if ready + failed >= all || self.over() {
                return;
            }
            thread::sleep(LOOK);
        }
    }

    /// Until the announcements of the newcomers are over.
    fn settle(&self) {
        let earliest = self.now() + (self.times.settle * SECOND as f64) as u64;
        self.quiet(QUIET_BEFORE, earliest, || false);
    }

    /// Until nothing came for `quiet`, not before `earliest`, or `done`, or the deadline.
    fn quiet(&self, quiet: u64, earliest: u64, done: impl Fn() -> bool) {
        let deadline = self.now().max(earliest) + self.control.plan.timeout;
        let (mut seen, mut since) = (0, self.now());
        loop {
            let bytes = sum(self.control, |c| &c.bytes_in);
            let now = self.now();
            if bytes != seen {
                (seen, since) = (bytes, now);
            }
            let rested = now >= earliest && now - since >= quiet;
            if rested || done() || now >= deadline || self.over() {
                return;
            }
            thread::sleep(LOOK);
        }
    }

    fn work(&self, timeline: &mut Vec<Point>) -> Difference {
        let start = self.now() + SECOND / 50;
        let after = |seconds: f64| start + (seconds * SECOND as f64) as u64;
        let window = Window {
            start,
            measured_from: after(self.times.warmup.min(self.times.seconds / 2.0)),
            stop: after(self.times.seconds),
        };
        // The phase is entered once, so the cell is empty.
        let _ = self.control.window.set(window);
        self.control.enter(Phase::Work);
        self.sleep_until(window.measured_from, window, timeline);
        let first = self.snapshot();
        self.sleep_until(window.stop, window, timeline);
        self.snapshot().since(&first)
    }

    fn sleep_until(&self, time: u64, window: Window, timeline: &mut Vec<Point>) {
        let span = (window.stop - window.start) as f64;
        let threads = self.control.counters.len() as u64;
        let mut last = (self.now(), sum(self.control, |c| &c.messages));
        let mut told = String::new();
        while !self.over() && sum(self.control, |c| &c.open) > 0 {
            let now = self.now();
            if sum(self.control, |c| &c.satisfied) == threads {
                return;
            }
            let Some(left) = time.checked_sub(now).filter(|left| *left > 0) else {
                return;
            };
            if now - last.0 > POINT || told.is_empty() {
                let messages = sum(self.control, |c| &c.messages);
                let seconds = (now - last.0).max(1) as f64 / SECOND as f64;
                let rate = (messages - last.1) as f64 / seconds;
                if !told.is_empty() {
                    let at = now.saturating_sub(window.start) as f64 / SECOND as f64;
                    timeline.push(Point { seconds: at, per_second: rate });
                }
                told = format!("{rate:.0} messages/s");
                last = (now, messages);
            }
            let part = now.saturating_sub(window.start) as f64 / span;
            self.show("measure", part, || told.clone());
            thread::sleep(Duration::from_nanos(left).min(LOOK * 10));
        }
    }

    /// Until all came that is awaited. A server that only stands still, for want of a CPU perhaps, has lost nothing:
    /// what is missing counts as lost at the deadline alone.
    fn drain(&self) {
        self.control.enter(Phase::Drain);
        self.show("drain", 1.0, String::new);
        let threads = self.control.counters.len() as u64;
        self.quiet(self.control.plan.timeout, 0, || sum(self.control, |c| &c.complete) == threads);
        // What came twice may come after everything came once.
        thread::sleep(LOOK * 10);
    }
}

fn gather<W>(finished: Vec<Finished<W>>, connecting: Difference) -> Measured<W> {
    let mut measured = Measured {
        workloads: Vec::new(),
        faults: Faults::default(),
        examples: Vec::new(),
        ready: 0,
        connecting,
        window: None,
        upgraded: Latencies::default(),
        signed_in: Latencies::default(),
        returned: Latencies::default(),
        busy: [Vec::new(), Vec::new()],
        memory: None,
        memory_after: None,
        timeline: Vec::new(),
        total: Snapshot::default(),
        offer: None,
        compression: Tally::default(),
        interrupted: false,
    };
    // The controller looks every few milliseconds; the threads know when their own last connection was ready.
    let begun = finished.iter().map(|thread| thread.usage[Phase::Connect as usize].at).min();
    let connected = finished.iter().map(|thread| thread.connected.map(|usage| usage.at)).max().flatten();
    if let (Some(begun), Some(connected)) = (begun, connected)
        && finished.iter().all(|thread| thread.connected.is_some())
    {
        measured.connecting.counts.at = connected.saturating_sub(begun).max(1);
    }
    for thread in finished {
        let at = |phase: Phase| thread.usage[phase as usize];
        let connected = thread.connected.unwrap_or(at(Phase::Freeze));
        let spans = [(at(Phase::Connect), connected), (at(Phase::Work), at(Phase::Drain))];
        for (busy, (from, to)) in measured.busy.iter_mut().zip(spans) {
            let wall = to.at.saturating_sub(from.at);
            if from.at > 0 && wall > 0 {
                busy.push(Busy {
                    used: (to.used - from.used) as f64 / wall as f64,
                    waited: (to.waited - from.waited) as f64 / wall as f64,
                });
            }
        }
        measured.workloads.push(thread.workload);
        measured.faults += thread.faults;
        measured.compression.merge(&thread.compression);
        measured.examples.extend(thread.examples);
        measured.upgraded.merge(&thread.upgraded);
        measured.signed_in.merge(&thread.signed_in);
        measured.returned.merge(&thread.returned);
    }
    measured.examples.truncate(5);
    measured
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::PHASES;
    use crate::engine::Usage;

    /// A thread that began at one time and had its last connection ready at another.
    fn thread(begun: u64, connected: Option<u64>) -> Finished<()> {
        let at = |at: u64| Usage { at, ..Usage::default() };
        Finished {
            workload: (),
            faults: Faults::default(),
            examples: Vec::new(),
            upgraded: Latencies::default(),
            signed_in: Latencies::default(),
            returned: Latencies::default(),
            usage: [at(begun); PHASES],
            connected: connected.map(at),
            compression: Tally::default(),
        }
    }

    fn looked() -> Difference {
        let counts = Snapshot { at: 5_000_000, ..Snapshot::default() };
        Difference { counts, server_cpu: None, server_waited: None, server_cores: None }
    }

    #[test]
    fn connecting_takes_as_long_as_the_threads_say_and_not_until_the_controller_looks() {
        let measured = gather(vec![thread(1_000, Some(301_000)), thread(2_000, Some(250_000))], looked());
        assert_eq!(measured.connecting.counts.at, 300_000);
        // Where one never had all of its own, the controller's word is all there is.
        let measured = gather(vec![thread(1_000, Some(301_000)), thread(2_000, None)], looked());
        assert_eq!(measured.connecting.counts.at, 5_000_000);
    }
}
