//! Barretenberg, which is no crate: its native binary behind Node, timed there.

use std::cell::RefCell;
use std::error::Error;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use _core::field::Fr;
use _core::poseidon2;

use crate::rounds::Took;

/// Permutations of one long call.
const LONG: usize = 4096;
/// Calls of two numbers each.
const CALLS: usize = 64;

/// The running process, and how many questions it has been asked.
pub(crate) struct Barretenberg {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    asked: u32,
}

impl Barretenberg {
    /// Starts it, and checks that it gives the core's hashes.
    pub(crate) fn start() -> Result<RefCell<Self>, Box<dyn Error>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../node/measure_poseidon2.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("no answers")?);
        let mut started = Self {
            child,
            questions,
            answers,
            asked: 0,
        };
        for (form, count) in [("absorb", 3), ("pairs", 1)] {
            let hash = started.ask(form, count)?.1;
            let inputs = if form == "absorb" { 3 * count } else { 2 };
            let seed = u64::from(started.asked) << 32;
            let numbers: Vec<Fr> = (0..inputs as u64)
                .map(|index| Fr::from_u64(seed + index))
                .collect();
            let expected = poseidon2::hash(&numbers).to_bytes();
            let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
            if hash != expected {
                return Err("Barretenberg gives other hashes".into());
            }
        }
        Ok(RefCell::new(started))
    }

    /// Many permutations of one call.
    pub(crate) fn absorb(&mut self) -> Took {
        self.took("absorb", LONG)
    }

    /// A call for each hash.
    pub(crate) fn one_by_one(&mut self) -> Took {
        self.took("pairs", CALLS)
    }

    fn took(&mut self, form: &str, count: usize) -> Took {
        let (nanoseconds, _) = self.ask(form, count).expect("Barretenberg answered before");
        Took {
            time: Duration::from_nanos(nanoseconds),
            items: count,
            sampled: false,
        }
    }

    fn ask(&mut self, form: &str, count: usize) -> Result<(u64, String), Box<dyn Error>> {
        self.asked += 1;
        let questions = self.questions.as_mut().ok_or("it is ending")?;
        writeln!(questions, "{form} {} {count}", self.asked)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let (nanoseconds, hash) = answer
            .trim_end()
            .split_once(' ')
            .ok_or("Barretenberg does not run: `make setup` installs it")?;
        Ok((nanoseconds.parse()?, hash.to_owned()))
    }
}

impl Drop for Barretenberg {
    fn drop(&mut self) {
        // Node ends when its questions do.
        drop(self.questions.take());
        let _ = self.child.wait();
    }
}
