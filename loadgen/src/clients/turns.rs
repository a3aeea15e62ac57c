//! Runs that take turns: one is under load, the others rest, with their servers and connections
//! ready.
//!
//! What disturbs a virtual machine lasts from milliseconds to seconds, so what is to be compared has
//! to run within milliseconds of each other. A run sends until its turn is over, awaits the replies
//! that it is owed, and passes the turn on. Its clock stands still until it comes round again, so
//! that everything it measures, from a latency to the length of its window, is of its own turns.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clients::control::Control;

/// The runs that take turns with each other.
#[derive(Debug)]
struct Turns {
    length_ns: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    runs: Vec<Stage>,
    /// Whose turn it is.
    present: Option<usize>,
}

/// How far a run is.
#[derive(Debug)]
enum Stage {
    /// It has not opened its connections yet. Until all have, nobody has a turn.
    Opening,
    /// It takes its turns.
    Turning {
        control: Arc<Control>,
        /// Its threads that have not come to their end.
        threads: usize,
        /// Those of them that have ended this turn.
        done: usize,
        /// Whether its load is steady.
        steady: bool,
    },
    /// It takes no more.
    Over,
}

/// One run's place in the round. Dropping it gives it up.
#[derive(Debug)]
pub struct Seat {
    turns: Arc<Turns>,
    number: usize,
}

/// Places for so many runs, in the order of their turns.
pub fn seats(count: usize, length: Duration) -> Vec<Seat> {
    let runs = (0..count).map(|_| Stage::Opening).collect();
    let turns = Arc::new(Turns {
        length_ns: length.as_nanos() as u64,
        state: Mutex::new(State { runs, present: None }),
        changed: Condvar::new(),
    });
    (0..count).map(|number| Seat { turns: turns.clone(), number }).collect()
}

impl Seat {
    /// Waits until the runs before this one have opened their connections: one opens after the
    /// other.
    pub fn await_those_before(&self) {
        self.wait_while(|state| {
            state.runs[..self.number].iter().any(|run| matches!(run, Stage::Opening))
        });
    }

    /// This run has opened its connections and takes turns from now on, with so many threads. Its
    /// clock has been stopped.
    pub fn take(&self, control: &Arc<Control>, threads: usize) {
        control.end_turn();
        let run = Stage::Turning { control: control.clone(), threads, done: 0, steady: false };
        self.set(run);
    }

    /// This run's load is steady.
    pub fn steady(&self) {
        if let Stage::Turning { steady, .. } = &mut self.lock().runs[self.number] {
            *steady = true;
        }
    }

    /// Whether the load of every run is steady. Until then those that are should go on, so that all
    /// are measured in the same turns.
    pub fn all_are_steady(&self) -> bool {
        let steady = |run: &Stage| match run {
            Stage::Opening => false,
            Stage::Turning { steady, .. } => *steady,
            Stage::Over => true,
        };
        self.lock().runs.iter().all(steady)
    }

    /// A thread has nothing outstanding at the end of this run's turn. To be called once a turn:
    /// it is not over before all threads have said so.
    pub fn done(&self) {
        let mut state = self.lock();
        debug_assert_eq!(state.present, Some(self.number), "it is another one's turn");
        if let Stage::Turning { done, .. } = &mut state.runs[self.number] {
            *done += 1;
        }
        self.pass_if_all_are_done(&mut state);
    }

    /// A thread takes no more turns.
    pub fn leave(&self) {
        let mut state = self.lock();
        let Stage::Turning { threads, .. } = &mut state.runs[self.number] else { return };
        *threads -= 1;
        if *threads == 0 {
            drop(state);
            self.set(Stage::Over);
        } else {
            self.pass_if_all_are_done(&mut state);
        }
    }

    fn pass_if_all_are_done(&self, state: &mut State) {
        if let Stage::Turning { threads, done, .. } = &state.runs[self.number]
            && done == threads
            && state.present == Some(self.number)
        {
            self.turns.pass(state);
        }
    }

    /// Waits until no run takes turns any more. To close connections is work for the server, and
    /// would be done in the turn of another one.
    pub fn await_all(&self) {
        self.wait_while(|state| {
            // A run that has had no turn keeps nobody waiting, itself included.
            !matches!(state.runs[self.number], Stage::Opening)
                && state.runs.iter().any(|run| !matches!(run, Stage::Over))
        });
    }

    fn set(&self, run: Stage) {
        let mut state = self.lock();
        state.runs[self.number] = run;
        let present = state.present;
        let opening = state.runs.iter().any(|run| matches!(run, Stage::Opening));
        if !opening && present.is_none_or(|present| present == self.number) {
            self.turns.pass(&mut state);
        }
        self.turns.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.turns.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl Fn(&State) -> bool) {
        let wait = self.turns.changed.wait_while(self.lock(), |state| condition(state));
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let over = matches!(self.lock().runs[self.number], Stage::Over);
        if !over {
            self.set(Stage::Over);
        }
    }
}

impl Turns {
    /// Ends the present turn and begins that of the next run, if there is one.
    fn pass(&self, state: &mut State) {
        let count = state.runs.len();
        let first = state.present.map_or(0, |present| present + 1);
        if let Some(present) = state.present
            && let Stage::Turning { control, .. } = &state.runs[present]
        {
            control.end_turn();
        }
        state.present = None;
        for number in (first..first + count).map(|number| number % count) {
            if let Stage::Turning { control, done, .. } = &mut state.runs[number] {
                *done = 0;
                control.begin_turn(self.length_ns);
                state.present = Some(number);
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

    fn has_turn(control: &Control) -> bool {
        control.turn_end_ns() > 0
    }

    #[test]
    fn nobody_has_a_turn_before_all_have_opened() {
        let (seats, controls) = (seats(3, LENGTH), [control(), control(), control()]);
        assert!(controls.iter().all(|control| control.turn_end_ns() == NEVER), "it is not theirs");
        for number in [1, 0] {
            seats[number].take(&controls[number], 1);
            assert!(!has_turn(&controls[number]));
        }
        seats[2].take(&controls[2], 1);
        assert_eq!(controls.each_ref().map(|control| has_turn(control)), [true, false, false]);
    }

    #[test]
    fn a_turn_goes_round_when_all_threads_are_done() {
        let (seats, controls) = (seats(3, LENGTH), [control(), control(), control()]);
        for (seat, control) in seats.iter().zip(&controls) {
            seat.take(control, 2);
        }
        for expected in [0, 1, 2, 0, 1, 2, 0] {
            for thread in 0..2 {
                let turns: Vec<usize> = (0..3).filter(|&n| has_turn(&controls[n])).collect();
                assert_eq!(turns, [expected], "thread {thread}");
                seats[expected].done();
            }
        }
    }

    #[test]
    fn time_passes_only_in_turns() {
        let (seats, controls) = (seats(2, LENGTH), [control(), control()]);
        for (seat, control) in seats.iter().zip(&controls) {
            seat.take(control, 1);
        }
        let [first, second] = controls.each_ref().map(|control| control.clock.clone());
        let (shown, waiting) = (first.now(), second.now());
        thread::sleep(LENGTH);
        assert!(first.now() >= shown + LENGTH.as_nanos() as u64);
        assert_eq!(second.now(), waiting);
        assert!(first.now() >= controls[0].turn_end_ns(), "it is over by its clock");
        seats[0].done();
        let shown = first.now();
        thread::sleep(LENGTH);
        assert_eq!(first.now(), shown);
        assert!(second.now() > waiting);
    }

    #[test]
    fn who_leaves_is_passed_over_and_the_last_is_never_kept_waiting() {
        let (mut seats, controls) = (seats(3, LENGTH), [control(), control(), control()]);
        for (seat, control) in seats.iter().zip(&controls) {
            seat.take(control, 2);
        }
        seats[1].leave(); // one of two threads
        seats[0].done();
        seats[0].done();
        assert!(has_turn(&controls[1]), "the other one is there");
        seats[1].leave();
        assert!(has_turn(&controls[2]));
        drop(seats.remove(0)); // whatever has happened to it
        seats[1].done();
        seats[1].done();
        assert!(has_turn(&controls[2]), "there is nobody else");
        seats[1].leave();
        seats[1].done(); // of two threads one has left
        assert!(has_turn(&controls[2]));
    }

    #[test]
    fn all_are_steady_when_the_last_one_is_or_has_gone() {
        let (mut seats, controls) = (seats(3, LENGTH), [control(), control(), control()]);
        seats[0].take(&controls[0], 1);
        seats[0].steady();
        assert!(!seats[0].all_are_steady(), "two have not even opened");
        seats[1].take(&controls[1], 1);
        seats[2].take(&controls[2], 1);
        seats[1].steady();
        assert!(!seats[0].all_are_steady(), "one is not");
        drop(seats.pop());
        assert!(seats[0].all_are_steady());
    }

    #[test]
    fn a_run_that_cannot_open_keeps_nobody_waiting() {
        let (mut seats, control) = (seats(2, LENGTH), control());
        let first = seats.remove(0);
        let seat = seats.remove(0);
        let (told, heard) = channel();
        let other = {
            let control = control.clone();
            thread::spawn(move || open_turn_and_end(&seat, &control, &told))
        };
        assert!(heard.recv_timeout(LENGTH).is_err(), "it opens after the one before");
        drop(first);
        assert_eq!(heard.recv(), Ok(()));
        other.join().unwrap();
    }

    fn open_turn_and_end(seat: &Seat, control: &Arc<Control>, told: &Sender<()>) {
        seat.await_all(); // not even itself
        seat.await_those_before();
        seat.take(control, 1);
        assert!(has_turn(control));
        seat.leave();
        seat.await_all();
        told.send(()).unwrap();
    }

    #[test]
    fn connections_stay_open_until_all_are_over() {
        let (mut seats, controls) = (seats(2, LENGTH), [control(), control()]);
        for (seat, control) in seats.iter().zip(&controls) {
            seat.take(control, 1);
        }
        let first = seats.remove(0);
        first.leave();
        let (told, heard) = channel();
        let waiting = thread::spawn(move || {
            first.await_all();
            told.send(()).unwrap();
        });
        assert!(heard.recv_timeout(LENGTH).is_err());
        seats[0].leave();
        assert_eq!(heard.recv(), Ok(()));
        waiting.join().unwrap();
    }
}
