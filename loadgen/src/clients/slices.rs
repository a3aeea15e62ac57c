//! Time slices of several runs: one run is under load, the others rest, with their servers and
//! connections ready.
//!
//! Disturbances of a virtual machine last from milliseconds to seconds, so runs that are compared
//! have to be under load within milliseconds of each other. A run sends until its slice is over,
//! awaits the replies that it is owed, and passes on to the next run. Its clock stands still until
//! its next slice, so that everything it measures, from a latency to the length of its window, is
//! of its own slices.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clients::control::Control;

/// State that all runs share.
#[derive(Debug)]
struct Slices {
    length_ns: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    runs: Vec<Stage>,
    /// The run whose slice it is.
    current: Option<usize>,
}

/// Stage of a run.
#[derive(Debug)]
enum Stage {
    /// It has not opened its connections. Until all runs have, none has a slice.
    Opening,
    /// It has slices.
    Active {
        control: Arc<Control>,
        /// Threads that have not left.
        threads: usize,
        /// Those of them that are done with this slice.
        done: usize,
        /// True once its load is steady.
        steady: bool,
    },
    /// It has no more slices.
    Over,
}

/// Handle of one run. Dropping it ends the run's slices.
#[derive(Debug)]
pub struct SliceHandle {
    slices: Arc<Slices>,
    number: usize,
}

/// Returns a handle for each of `count` runs, in the order of their slices.
pub fn slices(count: usize, length: Duration) -> Vec<SliceHandle> {
    let runs = (0..count).map(|_| Stage::Opening).collect();
    let slices = Arc::new(Slices {
        length_ns: length.as_nanos() as u64,
        state: Mutex::new(State { runs, current: None }),
        changed: Condvar::new(),
    });
    (0..count).map(|number| SliceHandle { slices: slices.clone(), number }).collect()
}

impl SliceHandle {
    /// Waits until the runs before this one have opened their connections.
    pub fn wait_for_predecessors(&self) {
        self.wait_while(|state| {
            state.runs[..self.number].iter().any(|run| matches!(run, Stage::Opening))
        });
    }

    /// Joins with `threads` threads, once the run has opened its connections. Stops its clock.
    pub fn join(&self, control: &Arc<Control>, threads: usize) {
        control.end_slice();
        let run = Stage::Active { control: control.clone(), threads, done: 0, steady: false };
        self.set(run);
    }

    /// Notes that this run's load is steady.
    pub fn set_steady(&self) {
        if let Stage::Active { steady, .. } = &mut self.lock().runs[self.number] {
            *steady = true;
        }
    }

    /// True if the load of every run is steady. Until then, steady runs are to go on, so that all
    /// are measured in the same slices.
    pub fn all_are_steady(&self) -> bool {
        let steady = |run: &Stage| match run {
            Stage::Opening => false,
            Stage::Active { steady, .. } => *steady,
            Stage::Over => true,
        };
        self.lock().runs.iter().all(steady)
    }

    /// Notes that a thread has nothing outstanding at the end of this run's slice. To be called
    /// once a slice by each thread; the last call ends the slice.
    pub fn done(&self) {
        let mut state = self.lock();
        debug_assert_eq!(state.current, Some(self.number), "it is the slice of another run");
        if let Stage::Active { done, .. } = &mut state.runs[self.number] {
            *done += 1;
        }
        self.pass_if_all_are_done(&mut state);
    }

    /// Notes that a thread has ended. The run has no more slices after its last thread.
    pub fn leave(&self) {
        let mut state = self.lock();
        let Stage::Active { threads, .. } = &mut state.runs[self.number] else { return };
        *threads -= 1;
        if *threads == 0 {
            drop(state);
            self.set(Stage::Over);
        } else {
            self.pass_if_all_are_done(&mut state);
        }
    }

    fn pass_if_all_are_done(&self, state: &mut State) {
        if let Stage::Active { threads, done, .. } = &state.runs[self.number]
            && done == threads
            && state.current == Some(self.number)
        {
            self.slices.pass(state);
        }
    }

    /// Waits until all runs are over. Closing connections is work for the server, and would be done
    /// in the slice of another run.
    pub fn wait_for_all(&self) {
        self.wait_while(|state| {
            // A run that never joined delays no other and does not wait.
            !matches!(state.runs[self.number], Stage::Opening)
                && state.runs.iter().any(|run| !matches!(run, Stage::Over))
        });
    }

    fn set(&self, run: Stage) {
        let mut state = self.lock();
        state.runs[self.number] = run;
        let current = state.current;
        let opening = state.runs.iter().any(|run| matches!(run, Stage::Opening));
        if !opening && current.is_none_or(|current| current == self.number) {
            self.slices.pass(&mut state);
        }
        self.slices.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.slices.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) {
        let wait = self.slices.changed.wait_while(self.lock(), |state| condition(state));
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for SliceHandle {
    fn drop(&mut self) {
        let over = matches!(self.lock().runs[self.number], Stage::Over);
        if !over {
            self.set(Stage::Over);
        }
    }
}

impl Slices {
    /// Ends the current slice and begins that of the next run, if there is one.
    fn pass(&self, state: &mut State) {
        let count = state.runs.len();
        let first = state.current.map_or(0, |current| current + 1);
        if let Some(current) = state.current
            && let Stage::Active { control, .. } = &state.runs[current]
        {
            control.end_slice();
        }
        state.current = None;
        for number in (first..first + count).map(|number| number % count) {
            if let Stage::Active { control, done, .. } = &mut state.runs[number] {
                *done = 0;
                control.begin_slice(self.length_ns);
                state.current = Some(number);
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    use super::*;
    use crate::clients::clock::{Clock, NEVER};

    const LENGTH: Duration = Duration::from_millis(2);

    fn control() -> Arc<Control> {
        Arc::new(Control::new(Clock::start(), 1, false).expect("there are descriptors"))
    }

    fn has_slice(control: &Control) -> bool {
        control.slice_end_ns() > 0
    }

    #[test]
    fn no_run_has_a_slice_before_all_have_opened() {
        let (handles, controls) = (slices(3, LENGTH), [control(), control(), control()]);
        assert!(
            controls.iter().all(|control| control.slice_end_ns() == NEVER),
            "no run has joined"
        );
        for number in [1, 0] {
            handles[number].join(&controls[number], 1);
            assert!(!has_slice(&controls[number]));
        }
        handles[2].join(&controls[2], 1);
        assert_eq!(controls.each_ref().map(|control| has_slice(control)), [true, false, false]);
    }

    #[test]
    fn slice_passes_on_when_all_threads_are_done() {
        let (handles, controls) = (slices(3, LENGTH), [control(), control(), control()]);
        for (handle, control) in handles.iter().zip(&controls) {
            handle.join(control, 2);
        }
        for expected in [0, 1, 2, 0, 1, 2, 0] {
            for thread in 0..2 {
                let found: Vec<usize> = (0..3).filter(|&n| has_slice(&controls[n])).collect();
                assert_eq!(found, [expected], "thread {thread}");
                handles[expected].done();
            }
        }
    }

    #[test]
    fn time_passes_only_in_slices() {
        let (handles, controls) = (slices(2, LENGTH), [control(), control()]);
        for (handle, control) in handles.iter().zip(&controls) {
            handle.join(control, 1);
        }
        let [first, second] = controls.each_ref().map(|control| control.clock.clone());
        let (shown, waiting) = (first.now(), second.now());
        thread::sleep(LENGTH);
        assert!(first.now() >= shown + LENGTH.as_nanos() as u64);
        assert_eq!(second.now(), waiting);
        assert!(first.now() >= controls[0].slice_end_ns(), "the slice is over by its clock");
        handles[0].done();
        let shown = first.now();
        thread::sleep(LENGTH);
        assert_eq!(first.now(), shown);
        assert!(second.now() > waiting);
    }

    #[test]
    fn run_that_left_is_skipped_and_the_last_never_waits() {
        let (mut handles, controls) = (slices(3, LENGTH), [control(), control(), control()]);
        for (handle, control) in handles.iter().zip(&controls) {
            handle.join(control, 2);
        }
        handles[1].leave(); // one of two threads
        handles[0].done();
        handles[0].done();
        assert!(has_slice(&controls[1]), "its other thread has not left");
        handles[1].leave();
        assert!(has_slice(&controls[2]));
        drop(handles.remove(0)); // as after a panic
        handles[1].done();
        handles[1].done();
        assert!(has_slice(&controls[2]), "there is no other run");
        handles[1].leave();
        handles[1].done(); // of two threads one has left
        assert!(has_slice(&controls[2]));
    }

    #[test]
    fn all_are_steady_when_the_last_is_or_has_left() {
        let (mut handles, controls) = (slices(3, LENGTH), [control(), control(), control()]);
        handles[0].join(&controls[0], 1);
        handles[0].set_steady();
        assert!(!handles[0].all_are_steady(), "two have not opened");
        handles[1].join(&controls[1], 1);
        handles[2].join(&controls[2], 1);
        handles[1].set_steady();
        assert!(!handles[0].all_are_steady(), "one is not");
        drop(handles.pop());
        assert!(handles[0].all_are_steady());
    }

    #[test]
    fn run_that_cannot_open_delays_no_other() {
        let (mut handles, control) = (slices(2, LENGTH), control());
        let first = handles.remove(0);
        let handle = handles.remove(0);
        let (sender, receiver) = channel();
        let other = {
            let control = control.clone();
            thread::spawn(move || open_join_and_leave(&handle, &control, &sender))
        };
        assert!(receiver.recv_timeout(LENGTH).is_err(), "it opens after the one before");
        drop(first);
        assert_eq!(receiver.recv(), Ok(()));
        other.join().unwrap();
    }

    fn open_join_and_leave(handle: &SliceHandle, control: &Arc<Control>, sender: &Sender<()>) {
        handle.wait_for_all(); // does not wait for itself
        handle.wait_for_predecessors();
        handle.join(control, 1);
        assert!(has_slice(control));
        handle.leave();
        handle.wait_for_all();
        sender.send(()).unwrap();
    }

    #[test]
    fn connections_stay_open_until_all_runs_are_over() {
        let (mut handles, controls) = (slices(2, LENGTH), [control(), control()]);
        for (handle, control) in handles.iter().zip(&controls) {
            handle.join(control, 1);
        }
        let first = handles.remove(0);
        first.leave();
        let (sender, receiver) = channel();
        let waiting = thread::spawn(move || {
            first.wait_for_all();
            sender.send(()).unwrap();
        });
        assert!(receiver.recv_timeout(LENGTH).is_err());
        handles[0].leave();
        assert_eq!(receiver.recv(), Ok(()));
        waiting.join().unwrap();
    }
}
