//! Measuring turn by turn: in each round every contender runs once, the first of the round being
//! another each time, so that whatever slows the machine down slows all of them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// One that is measured.
pub(crate) struct Contender<'a> {
    pub(crate) name: String,
    /// Runs on the inputs of a round and says how long the part that counts took. Rounds have
    /// different inputs as far as there are any.
    pub(crate) run: Box<dyn FnMut(usize) -> Took + 'a>,
}

/// One turn.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    pub(crate) time: Duration,
    /// How many of what the column counts (frames, hashes) were done in that time.
    pub(crate) items: usize,
    /// Whether they are a sample of the column's number.
    pub(crate) sampled: bool,
}

/// How much time a cell of the table may take.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// All contenders' turns together.
    pub(crate) budget: Duration,
    pub(crate) least_rounds: usize,
    pub(crate) most_rounds: usize,
}

/// What came out, in nanoseconds an item.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    lower: f64,
    median: f64,
    upper: f64,
    rounds: usize,
    sampled: bool,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: impl Into<String>, run: impl FnMut(usize) -> Took + 'a) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

/// The time that some work took, for all items of the column.
pub(crate) fn timed<T>(items: usize, work: impl FnOnce() -> T) -> Took {
    let began = Instant::now();
    core::hint::black_box(work());
    Took {
        time: began.elapsed(),
        items,
        sampled: false,
    }
}

impl Took {
    /// The same as a sample of the column's number.
    pub(crate) const fn sample_of(mut self, all: usize) -> Self {
        self.sampled = self.items < all;
        self
    }
}

impl Cell {
    pub(crate) fn to_json(self) -> Value {
        json!({
            "lower_ns": self.lower, "median_ns": self.median, "upper_ns": self.upper,
            "rounds": self.rounds, "sampled": self.sampled,
        })
    }

    pub(crate) const fn median_ns(self) -> f64 {
        self.median
    }
}

/// Measures contenders against each other.
pub(crate) fn turn_by_turn(contenders: &mut [Contender<'_>], effort: Effort) -> Vec<Cell> {
    // The first round warms caches and tables up and tells how many rounds the budget allows.
    let began = Instant::now();
    let warm: Vec<Took> = contenders.iter_mut().map(|one| (one.run)(0)).collect();
    let round = began.elapsed().as_secs_f64().max(1e-9);
    let rounds = ((effort.budget.as_secs_f64() / round) as usize)
        .clamp(effort.least_rounds, effort.most_rounds);
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let who = (turn + round) % contenders.len();
            let took = (contenders[who].run)(round + 1);
            times[who].push(took.time.as_secs_f64() * 1e9 / took.items as f64);
        }
    }
    times
        .into_iter()
        .zip(warm)
        .map(|(mut times, first)| {
            times.sort_by(f64::total_cmp);
            let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
            Cell {
                lower: at(0.25),
                median: at(0.5),
                upper: at(0.75),
                rounds,
                sampled: first.sampled,
            }
        })
        .collect()
}
