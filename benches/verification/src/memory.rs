//! How much memory a process needs that maps a transcript's file and verifies it.

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use _core::cpu;
use memmap2::Mmap;
use serde_json::{Value, json};

use crate::inputs::{FRAME, Place, transcript_of};
use crate::transcripts::verify;

/// Runs this program again for each number of threads and gives what the children say.
pub(crate) fn measure(place: &Place, frames: usize) -> Result<Value, Box<dyn Error>> {
    let file = place.transcript_file(frames)?;
    let mut rows = Vec::new();
    for threads in [1, 2] {
        eprintln!("memory: {frames} frames, threads {threads}");
        let output = Command::new(std::env::current_exe()?)
            .arg("memory")
            .arg(&file)
            .args([frames.to_string(), threads.to_string()])
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        rows.push(serde_json::from_slice::<Value>(&output.stdout)?);
    }
    Ok(Value::Array(rows))
}

/// The child: the first transcript of that many frames, from its file.
pub(crate) fn child(path: &Path, frames: usize, threads: usize) -> Result<Value, Box<dyn Error>> {
    let file = File::open(path)?;
    // SAFETY: the file was renamed into place whole and nobody writes to it.
    let data = unsafe { Mmap::map(&file)? };
    let data = &data[..frames * FRAME];
    let transcript = transcript_of(data, frames, 0);
    verify(&transcript, cpu::best(), threads, frames);
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(json!({
        "threads": threads,
        "frames": frames,
        "file_bytes": data.len(),
        "peak_resident_bytes": kibibytes(&status, "VmHWM:")? * 1024,
        "file_backed_bytes": kibibytes(&status, "RssFile:")? * 1024,
    }))
}

fn kibibytes(status: &str, name: &str) -> Result<u64, Box<dyn Error>> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number
        .ok_or("the kernel does not tell memory: this needs Linux")?
        .parse()?)
}
