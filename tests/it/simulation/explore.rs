//! Runs schedules from seeds, and makes a schedule that fails shorter.

use super::choices::Choices;
use super::world::World;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a simulation checks: runs one schedule in a new world.
pub type Scenario<'a> = &'a dyn Fn(&Arc<World>) -> Result<(), String>;

/// Number of schedules and requests of an exploration.
#[derive(Default)]
pub struct Explored {
    pub schedules: u64,
    pub steps: u64,
}

/// A schedule that fails.
pub struct Failure {
    pub seed: u64,
    pub why: String,
    /// The requests of the shortest schedule that fails.
    pub trace: String,
}

/// Greatest number of runs to make a schedule shorter.
const MAX_ATTEMPTS: usize = 2000;

fn run(scenario: Scenario<'_>, choices: Choices, is_traced: bool) -> (Arc<World>, Result<(), String>) {
    let world = World::new(choices, is_traced);
    let mut result = scenario(&world);
    if let Some(stuck) = world.state().stuck.take() {
        result = Err(stuck);
    }
    (world, result)
}

/// Runs schedules from the seeds beginning with `first`, at least so many, until one fails or the
/// time is over.
pub fn explore(scenario: Scenario<'_>, first: u64, least: u64, time: Duration) -> Result<Explored, Failure> {
    let begun = Instant::now();
    let mut explored = Explored::default();
    for seed in first.. {
        let (world, result) = run(scenario, Choices::of_seed(seed), false);
        explored.schedules += 1;
        explored.steps += world.state().steps;
        if result.is_err() {
            let made = world.state().choices.made().to_vec();
            return Err(shorten(scenario, seed, made));
        }
        if explored.schedules >= least && begun.elapsed() >= time {
            break;
        }
    }
    Ok(explored)
}

/// Replaces choices by zero, in which nothing special happens, as long as the schedule fails.
fn shorten(scenario: Scenario<'_>, seed: u64, mut made: Vec<u32>) -> Failure {
    let mut attempts = 0;
    let mut length = made.len().next_power_of_two();
    while length > 0 {
        let mut at = 0;
        while at < made.len() && attempts < MAX_ATTEMPTS {
            let end = (at + length).min(made.len());
            if made[at..end].iter().any(|choice| *choice != 0) {
                let mut fewer = made.clone();
                fewer[at..end].fill(0);
                attempts += 1;
                if run(scenario, Choices::again(fewer.clone()), false).1.is_err() {
                    made = fewer;
                }
            }
            at = end;
        }
        length /= 2;
    }
    let (world, result) = run(scenario, Choices::again(made), true);
    let why = result.expect_err("a schedule that fails again");
    Failure { seed, why, trace: world.state().trace() }
}
