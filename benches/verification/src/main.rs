//! Measures the core's verification beside its peers, turn by turn, in one process.
//!
//! ```text
//! verification-bench measure PEERS PLACE [quick] [small] [SECTION…]   the table, as JSON
//! verification-bench stages PLACE [quick]        a transcript's time by stage, as JSON
//! verification-bench memory FILE FRAMES THREADS  verifies the file; this process's memory
//! ```
//!
//! `PEERS` are shared objects built from `benches/peers`, with commas between, `PLACE` where inputs are kept; `small`
//! leaves the sizes beyond 64 k out, `quick` measures nothing well but everything once. Without
//! sections all are measured. `verification.py` builds both, runs this and prints the table.

mod barretenberg;
mod hashes;
mod inputs;
#[path = "../../peers/src/interface.rs"]
#[allow(unreachable_pub)]
mod interface;
mod memory;
mod peers;
mod rounds;
mod signatures;
mod stages;
mod table;
mod transcripts;
mod tree;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::inputs::Place;
use crate::peers::Fastest;
use crate::rounds::Effort;
use crate::table::Section;

/// How much is measured.
pub(crate) struct Plan {
    /// Frames and signatures at once: the columns.
    pub(crate) sizes: Vec<usize>,
    quick: bool,
}

impl Plan {
    fn new(words: &[&str]) -> Self {
        let quick = words.contains(&"quick");
        let all = [1, 16, 256, 4 << 10, 64 << 10, 1 << 20];
        let most = match (quick, words.contains(&"small")) {
            (true, _) => 16,
            (false, true) => 64 << 10,
            (false, false) => 1 << 20,
        };
        Self {
            sizes: all.into_iter().filter(|size| *size <= most).collect(),
            quick,
        }
    }

    /// How many signatures there are to take batches from.
    pub(crate) fn pool(&self) -> usize {
        self.sizes.iter().copied().max().unwrap_or(1).max(256)
    }

    /// A number, less if it need not be measured well.
    pub(crate) fn most_of(&self, number: usize) -> usize {
        if self.quick { number.min(256) } else { number }
    }

    /// What a cell of so many items may take.
    pub(crate) const fn effort(&self, items: usize) -> Effort {
        let (seconds, least_rounds, most_rounds) = match (self.quick, items) {
            (true, _) => (0, 1, 1),
            (false, ..=4096) => (10, 15, 501),
            (false, ..=65_536) => (15, 9, 101),
            (false, _) => (30, 5, 25),
        };
        Effort {
            budget: Duration::from_secs(seconds),
            least_rounds,
            most_rounds,
        }
    }
}

/// A number of frames or signatures as the table writes it.
pub(crate) fn size_name(size: usize) -> String {
    match size {
        0x10_0000.. if size.is_multiple_of(1 << 20) => format!("{} M", size >> 20),
        0x400.. if size.is_multiple_of(1 << 10) => format!("{} k", size >> 10),
        _ => size.to_string(),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match arguments[..] {
        ["measure", peers, place, ref words @ ..] => measure(peers, place, words)?,
        ["stages", place, ref words @ ..] => stages(place, words)?,
        ["memory", file, frames, threads] => {
            memory::child(Path::new(file), frames.parse()?, threads.parse()?)?
        }
        _ => return Err("measure PEERS PLACE … | stages PLACE … | memory FILE …".into()),
    };
    println!("{answer}");
    Ok(())
}

/// What the sections asked for come to: a line for each section, and a branch for what picks it.
fn measure(peers: &str, place: &str, words: &[&str]) -> Result<Value, Box<dyn Error>> {
    let plan = Plan::new(words);
    let place = Place::new(Path::new(place))?;
    let paths: Vec<&Path> = peers.split(',').map(Path::new).collect();
    let Fastest { peers, builds } = peers::load(&paths)?;
    signatures::check_peers(&place, &peers)?;
    type Measure<'a> = &'a dyn Fn() -> Result<Section, Box<dyn Error>>;
    let sections: [(&str, Measure<'_>); 8] = [
        ("transcript", &|| {
            transcripts::section(&plan, &place, &peers)
        }),
        ("few", &|| {
            signatures::verifying(&plan, &place, &peers, false)
        }),
        ("distinct", &|| {
            signatures::verifying(&plan, &place, &peers, true)
        }),
        ("recover", &|| signatures::recovering(&plan, &place, &peers)),
        ("keccak", &|| Ok(hashes::keccak(&plan, &peers))),
        ("digests", &|| hashes::digests(&plan, &place)),
        ("poseidon2", &|| hashes::poseidon2(&plan, &peers)),
        ("tree", &|| Ok(tree::section(&plan, &peers))),
    ];
    let known = |word: &str| {
        ["quick", "small", "memory"].contains(&word)
            || sections.iter().any(|(name, _)| *name == word)
    };
    if let Some(word) = words.iter().find(|word| !known(word)) {
        return Err(format!("there is no section {word}").into());
    }
    let all = words.iter().all(|word| ["quick", "small"].contains(word));
    let mut measured = Vec::new();
    for (name, measure) in sections {
        if all || words.contains(&name) {
            measured.push(measure()?.to_json());
        }
    }
    let memory = if all || words.contains(&"memory") {
        let most = if words.contains(&"small") {
            64 << 10
        } else {
            1 << 20
        };
        memory::measure(&place, plan.most_of(most))?
    } else {
        json!([])
    };
    let backends = _core::cpu::available().iter().map(|backend| backend.name());
    Ok(json!({
        "peer_builds": builds,
        "backends": backends.collect::<Vec<_>>(),
        "sections": measured,
        "memory": memory,
    }))
}

fn stages(place: &str, words: &[&str]) -> Result<Value, Box<dyn Error>> {
    let plan = Plan::new(words);
    let place = Place::new(Path::new(place))?;
    stages::measure(&plan, &place, plan.most_of(16 << 10))
}
