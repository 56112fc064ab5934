//! Processes on several hosts, of whose threads one runs at a time, and the clock that they share.
//! Every request to a store is a point at which another thread may go on, the process may be killed
//! or suspended, or hours may pass.

use super::choices::Choices;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use walkeep::error::{Error, Kind, Result};
use walkeep::runtime::{Scheduler, SimulatedProcess, enter};

/// Chances of what happens at a request, as one in so many; 0 is never.
#[derive(Clone, Copy, Default)]
pub struct Chances {
    /// The process is killed: this and all of its later requests fail, and do nothing.
    pub killed: u64,
    /// The process is suspended for minutes to weeks.
    pub paused: u64,
    /// A virtual machine is suspended with its clocks, once in so many suspensions.
    pub frozen: u64,
    /// Hours pass.
    pub later: u64,
    /// The request fails, before or after it was done, or it is done minutes later.
    pub fails: u64,
}

/// Outcome of the dice for a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// The request was not done.
    Refused,
    /// The request was done, and its answer was lost.
    AnswerLost,
    /// The request is done later.
    Late(Duration),
}

/// The processes and their clock.
pub struct World {
    state: Mutex<State>,
    all_ended: Condvar,
}

pub struct State {
    pub choices: Choices,
    pub chances: Chances,
    /// Time since the beginning.
    pub clock: Duration,
    threads: Vec<ThreadState>,
    processes: Vec<ProcessState>,
    /// The thread that runs.
    current: usize,
    /// The process that most turns are given to at present.
    favourite: usize,
    pub steps: u64,
    /// Requests and ends, in order; `None` when they are not written down.
    trace: Option<Vec<String>>,
    /// What is wrong with the schedule itself: all threads wait for each other.
    pub stuck: Option<String>,
}

struct ThreadState {
    process: usize,
    name: String,
    run: RunState,
    turn: Arc<Turn>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunState {
    Ready,
    Parked { on: usize, until: Option<Duration> },
    Ended,
}

struct ProcessState {
    name: String,
    host: u64,
    main: usize,
    /// True when it was killed, or when its main thread has ended: its requests do nothing.
    is_killed: bool,
    has_ended: bool,
    paused_until: Duration,
    /// How far its monotonic clock is ahead: a killed process waits for nothing.
    ahead: Duration,
    /// How far its monotonic clock is behind: it stands still while the machine is suspended.
    behind: Duration,
}

/// The right to run, which one thread has.
#[derive(Default)]
struct Turn {
    given: Mutex<bool>,
    changed: Condvar,
}

impl Turn {
    fn give(&self) {
        *self.given.lock() = true;
        self.changed.notify_one();
    }

    fn take(&self) {
        let mut given = self.given.lock();
        while !*given {
            self.changed.wait(&mut given);
        }
        *given = false;
    }
}

thread_local! {
    /// Number of the simulated thread that runs here.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// A process to run: its name, the number of its host, and what it does. It may fail, and must not
/// panic.
pub struct Program<'a> {
    pub name: String,
    pub host: u64,
    pub work: Box<dyn FnOnce() -> Result<()> + Send + 'a>,
}

impl World {
    pub fn new(choices: Choices, is_traced: bool) -> Arc<World> {
        Arc::new(World {
            state: Mutex::new(State {
                choices,
                chances: Chances::default(),
                clock: Duration::ZERO,
                threads: Vec::new(),
                processes: Vec::new(),
                current: 0,
                favourite: 0,
                steps: 0,
                trace: is_traced.then(Vec::new),
                stuck: None,
            }),
            all_ended: Condvar::new(),
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.state().clock += time;
    }

    /// Runs processes to their ends. What goes wrong on the way is decided by `chances`.
    pub fn run(self: &Arc<World>, chances: Chances, programs: Vec<Program<'_>>) {
        self.state().chances = chances;
        std::thread::scope(|scope| {
            for Program { name, host, work } in programs {
                let scheduler = self.process(&name, host);
                let world = Arc::clone(self);
                scope.spawn(move || {
                    enter(scheduler, || {
                        let done = work();
                        world.state().note(|| match &done {
                            Ok(()) => format!("{name}: done"),
                            Err(error) => format!("{name}: {error}"),
                        });
                    });
                });
            }
            let mut state = self.state();
            if state.pick() {
                state.give_turn();
            }
            while state.threads.iter().any(|thread| thread.run != RunState::Ended) {
                self.all_ended.wait(&mut state);
            }
            state.chances = Chances::default();
            state.threads.clear();
        });
    }

    fn process(self: &Arc<World>, name: &str, host: u64) -> Arc<dyn Scheduler> {
        let mut state = self.state();
        let (process, thread) = (state.processes.len(), state.threads.len());
        state.processes.push(ProcessState {
            name: name.to_owned(),
            host,
            main: thread,
            is_killed: false,
            has_ended: false,
            paused_until: Duration::ZERO,
            ahead: Duration::ZERO,
            behind: Duration::ZERO,
        });
        state.threads.push(ThreadState {
            process,
            name: name.to_owned(),
            run: RunState::Ready,
            turn: Arc::default(),
        });
        Arc::new(Simulated { world: Arc::clone(self), thread })
    }

    /// Makes a request of the current thread: lets others go first, and decides what becomes of it.
    /// Threads outside of the simulation are served at once.
    ///
    /// A request whose signature expires is refused when it was on its way for longer than that.
    pub fn request(
        &self,
        what: impl FnOnce() -> String,
        expires: Option<Duration>,
    ) -> Result<(MutexGuard<'_, State>, Fate)> {
        let mut state = self.state();
        let sent = state.clock;
        let Some(thread) = CURRENT.get() else {
            state.clock += Duration::from_millis(10);
            return Ok((state, Fate::Done));
        };
        let process = state.threads[thread].process;
        if state.processes[process].is_killed {
            return Err(killed());
        }
        state.steps += 1;
        let hours = state.chances.later;
        let passed = if state.choices.one_in(hours) { 2 * 3600 * 1000 } else { 1 };
        state.clock += Duration::from_millis(passed);
        let mut state = self.switch(state, thread);
        let Chances { killed: kills, paused, .. } = state.chances;
        if state.choices.one_in(paused) {
            state.pause(process);
            state = self.switch(state, thread);
        }
        if state.choices.one_in(kills) {
            state.kill(process);
        }
        // Another thread of the process may have been killed meanwhile.
        let is_killed = state.processes[process].is_killed;
        let is_expired = expires.is_some_and(|time| state.clock > sent + time);
        let fate = if is_killed || is_expired { Fate::Refused } else { state.fate() };
        let name = state.threads[thread].name.clone();
        state.note(|| {
            let mark = match fate {
                _ if is_killed => " (killed)",
                Fate::Done => "",
                Fate::Refused => " (fails)",
                Fate::AnswerLost => " (answer lost)",
                Fate::Late(_) => " (late)",
            };
            format!("{name}{mark}: {}", what())
        });
        if is_killed { Err(killed()) } else { Ok((state, fate)) }
    }

    /// Gives the turn to a thread that can run, and waits for the next turn of this one.
    fn switch<'a>(&'a self, mut state: MutexGuard<'a, State>, own: usize) -> MutexGuard<'a, State> {
        let _ = state.pick();
        self.hand_over(state, own)
    }

    /// Gives the turn of a killed process's thread to the next thread that can run.
    fn pass_on<'a>(&'a self, mut state: MutexGuard<'a, State>, own: usize) -> MutexGuard<'a, State> {
        let threads = state.threads.len();
        let others = (own + 1..own + threads).map(|other| other % threads);
        state.current = others.into_iter().find(|other| state.is_able(*other)).unwrap_or(own);
        self.hand_over(state, own)
    }

    fn hand_over<'a>(&'a self, state: MutexGuard<'a, State>, own: usize) -> MutexGuard<'a, State> {
        if state.current == own {
            return state;
        }
        let turn = Arc::clone(&state.threads[own].turn);
        state.give_turn();
        drop(state);
        turn.take();
        self.state()
    }
}

fn killed() -> Error {
    Error::new(Kind::Failed, "killed")
}

impl State {
    /// Writes a line into the trace.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let clock = self.clock.as_secs_f64();
            trace.push(format!("{clock:12.3} {}", line()));
        }
    }

    /// The requests and ends, in order.
    pub fn trace(&self) -> String {
        self.trace.as_ref().map_or_else(String::new, |lines| lines.join("\n"))
    }

    fn fate(&mut self) -> Fate {
        let fails = self.chances.fails;
        if !self.choices.one_in(fails) {
            return Fate::Done;
        }
        match self.choices.below(3) {
            0 => Fate::Refused,
            1 => Fate::AnswerLost,
            _ => Fate::Late(Duration::from_secs(1 + self.choices.below(800))),
        }
    }

    /// Suspends a process, perhaps with its clock, for minutes to weeks.
    fn pause(&mut self, process: usize) {
        let long = [600, 2 * 3600, 26 * 3600, 20 * 86400][self.choices.below(4) as usize];
        let long = Duration::from_secs(long);
        self.processes[process].paused_until = self.clock + long;
        let frozen = self.chances.frozen;
        if self.choices.one_in(frozen) {
            self.processes[process].behind += long;
            for thread in self.threads.iter_mut().filter(|thread| thread.process == process) {
                if let RunState::Parked { until: Some(until), .. } = &mut thread.run {
                    *until += long;
                }
            }
        }
        let name = self.processes[process].name.clone();
        self.note(|| format!("{name}: suspended for {long:?}"));
    }

    /// Kills a process: its threads go on to their ends, and nothing that they do has an effect.
    fn kill(&mut self, process: usize) {
        self.processes[process].is_killed = true;
        for thread in self.threads.iter_mut().filter(|thread| thread.process == process) {
            if matches!(thread.run, RunState::Parked { .. }) {
                thread.run = RunState::Ready;
            }
        }
    }

    /// Chooses the next thread, and lets time pass until one can run. Returns false when all have
    /// ended.
    fn pick(&mut self) -> bool {
        loop {
            let able: Vec<usize> = (0..self.threads.len()).filter(|thread| self.is_able(*thread)).collect();
            if !able.is_empty() {
                self.current = self.choose(&able);
                return true;
            }
            if !self.wait_for_time() {
                if self.threads.iter().all(|thread| thread.run == RunState::Ended) {
                    return false;
                }
                self.unstick();
            }
        }
    }

    fn is_able(&self, thread: usize) -> bool {
        let ThreadState { process, run, .. } = &self.threads[thread];
        *run == RunState::Ready && self.processes[*process].paused_until <= self.clock
    }

    /// One process goes on for a while, so that the others stand still between two of their
    /// requests for long.
    fn choose(&mut self, able: &[usize]) -> usize {
        if let [only] = able {
            return *only;
        }
        if self.choices.one_in(12) {
            let chosen = self.choices.below(able.len() as u64) as usize;
            self.favourite = self.threads[able[chosen]].process;
        }
        if self.choices.one_in(4) {
            return able[self.choices.below(able.len() as u64) as usize];
        }
        let is_favourite = |thread: &&usize| self.threads[**thread].process == self.favourite;
        able.iter().find(is_favourite).copied().unwrap_or(able[0])
    }

    /// Lets time pass until a thread can run. Returns false when no thread waits for a time.
    fn wait_for_time(&mut self) -> bool {
        let clock = self.clock;
        let ends = self.threads.iter().filter_map(|thread| {
            let paused = self.processes[thread.process].paused_until;
            match thread.run {
                RunState::Ready => Some(paused),
                RunState::Parked { until, .. } => until.map(|until| until.max(paused)),
                RunState::Ended => None,
            }
        });
        let Some(next) = ends.min() else { return false };
        self.clock = next.max(clock);
        for thread in &mut self.threads {
            if matches!(thread.run, RunState::Parked { until: Some(until), .. } if until <= self.clock) {
                thread.run = RunState::Ready;
            }
        }
        true
    }

    /// Ends a schedule in which all threads wait for each other, as a failure.
    fn unstick(&mut self) {
        let waiting = self.threads.iter().filter(|thread| thread.run != RunState::Ended);
        let names: Vec<&str> = waiting.map(|thread| thread.name.as_str()).collect();
        self.stuck = Some(format!("these threads wait for each other: {}", names.join(", ")));
        for process in 0..self.processes.len() {
            self.kill(process);
        }
    }

    fn give_turn(&self) {
        if let Some(thread) = self.threads.get(self.current) {
            thread.turn.give();
        }
    }

    fn local_time(&self, process: usize) -> Duration {
        let ProcessState { ahead, behind, .. } = &self.processes[process];
        (self.clock + *ahead).saturating_sub(*behind)
    }
}

/// A thread of the simulation.
struct Simulated {
    world: Arc<World>,
    thread: usize,
}

impl Simulated {
    fn process_of(&self, state: &State) -> usize {
        state.threads[self.thread].process
    }
}

impl Scheduler for Simulated {
    fn now(&self) -> Duration {
        let mut state = self.world.state();
        let process = self.process_of(&state);
        if state.processes[process].is_killed {
            // It waits for nothing.
            state.processes[process].ahead += Duration::from_secs(3600);
        }
        state.local_time(process)
    }

    fn park(&self, on: usize, until: Option<Duration>) {
        let mut state = self.world.state();
        let process = self.process_of(&state);
        let ProcessState { is_killed, ahead, behind, .. } = &state.processes[process];
        if *is_killed {
            drop(self.world.pass_on(state, self.thread));
            return;
        }
        let until = until.map(|until| (until + *behind).saturating_sub(*ahead));
        state.threads[self.thread].run = RunState::Parked { on, until };
        drop(self.world.switch(state, self.thread));
    }

    fn wake(&self, on: usize) {
        let mut state = self.world.state();
        for thread in &mut state.threads {
            if matches!(thread.run, RunState::Parked { on: parked, .. } if parked == on) {
                thread.run = RunState::Ready;
            }
        }
    }

    fn starts(&self, name: &str) -> Arc<dyn Scheduler> {
        let mut state = self.world.state();
        let process = self.process_of(&state);
        let name = format!("{} ({name})", state.processes[process].name);
        let thread = state.threads.len();
        state.threads.push(ThreadState { process, name, run: RunState::Ready, turn: Arc::default() });
        Arc::new(Simulated { world: Arc::clone(&self.world), thread })
    }

    fn begin(&self) {
        let turn = Arc::clone(&self.world.state().threads[self.thread].turn);
        turn.take();
        CURRENT.set(Some(self.thread));
    }

    fn end(&self) {
        CURRENT.set(None);
        let mut state = self.world.state();
        state.threads[self.thread].run = RunState::Ended;
        let process = self.process_of(&state);
        if state.processes[process].main == self.thread {
            state.processes[process].has_ended = true;
            state.kill(process);
        }
        if state.pick() {
            state.give_turn();
        } else {
            self.world.all_ended.notify_all();
        }
    }

    fn process(&self) -> SimulatedProcess {
        let state = self.world.state();
        let process = self.process_of(&state);
        SimulatedProcess {
            host: format!("host{}", state.processes[process].host),
            pid: 1000 + process as u32,
        }
    }

    fn has_ended(&self, pid: u32) -> bool {
        let state = self.world.state();
        let process = (pid as usize).checked_sub(1000).and_then(|process| state.processes.get(process));
        process.is_none_or(|process| process.has_ended || process.is_killed)
    }

    fn random(&self, bytes: &mut [u8]) {
        self.world.state().choices.fill(bytes);
    }
}
