//! What is measured on: transcripts and signatures, all distinct, made once and kept in files.
//!
//! Every byte follows from the names and numbers here, so any two machines measure the same
//! inputs, and a file of the right name and length is taken as made.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use _core::frame::{self, FrameView, Header, OVERHEAD};
use _core::keccak::{Digest, keccak256};
use _core::secp256k1::{PublicKey, SecretKey};
use memmap2::Mmap;

use crate::interface::Signed;

/// The bytes of every payload.
pub(crate) const PAYLOAD: usize = 300;
/// The bytes of every frame.
pub(crate) const FRAME: usize = OVERHEAD + PAYLOAD;
/// How many keys sign the signatures "of few keys".
pub(crate) const FEW: usize = 8;

/// Frames that are made between two writes to the file.
const BLOCK: usize = 4096;

/// Where the files are.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

/// Several transcripts of one size, in one mapped file.
pub(crate) struct Transcripts {
    data: Mmap,
    frames: usize,
    count: usize,
}

/// One whole transcript, and what its verifier must know.
#[derive(Clone)]
pub(crate) struct Transcript<'a> {
    /// Frames back to back, each of [`FRAME`] bytes.
    pub(crate) data: &'a [u8],
    pub(crate) domain: Digest,
    pub(crate) custody: Digest,
    /// (lane, from seq, key): one key a lane.
    pub(crate) keys: [(u8, u64, PublicKey); 2],
}

/// Signatures with their digests, and the keys that made them.
pub(crate) struct Signatures {
    pub(crate) signed: Vec<Signed>,
    pub(crate) keys: Vec<PublicKey>,
}

impl Place {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }

    /// `count` transcripts of `frames` frames each.
    pub(crate) fn transcripts(&self, frames: usize, count: usize) -> io::Result<Transcripts> {
        let path = self.0.join(format!("transcripts-{frames}x{count}.bin"));
        make(&path, frames * count * FRAME, |file| {
            (0..count).try_for_each(|index| write_transcript(file, frames, index))
        })?;
        let file = File::open(&path)?;
        // SAFETY: the file was renamed into place whole and nobody writes to it.
        let data = unsafe { Mmap::map(&file)? };
        Ok(Transcripts {
            data,
            frames,
            count,
        })
    }

    /// The file of one transcript of that many frames, made if need be.
    pub(crate) fn transcript_file(&self, frames: usize) -> io::Result<PathBuf> {
        self.transcripts(frames, 1)?;
        Ok(self.0.join(format!("transcripts-{frames}x1.bin")))
    }

    /// `count` signatures, by [`FEW`] keys in turn or each by a key of its own.
    pub(crate) fn signatures(&self, count: usize, distinct: bool) -> io::Result<Signatures> {
        let keys = if distinct { count } else { FEW };
        let name = if distinct { "distinct" } else { "few" };
        let path = self.0.join(format!("signatures-{name}-{count}.bin"));
        make(&path, count * RECORD + keys * 64, |file| {
            write_signatures(file, count, keys)
        })?;
        read_signatures(&fs::read(&path)?, count, keys)
    }
}

impl Transcripts {
    /// One of them; beyond the last it starts again.
    pub(crate) fn get(&self, index: usize) -> Transcript<'_> {
        let index = index % self.count;
        let bytes = self.frames * FRAME;
        transcript_of(&self.data[index * bytes..][..bytes], self.frames, index)
    }

    pub(crate) const fn frames(&self) -> usize {
        self.frames
    }
}

impl Transcript<'_> {
    /// The digests, signatures and keys (0 and 1: the lanes) of some of its frames.
    pub(crate) fn signed(&self, first: usize, length: usize) -> Vec<Signed> {
        self.data[first * FRAME..][..length * FRAME]
            .chunks_exact(FRAME)
            .map(|raw| {
                let frame = FrameView::parse(raw, 0).expect("the frame was made here");
                Signed {
                    digest: frame.digest(&self.domain),
                    signature: frame.signature(),
                    key: u32::from(frame.lane()),
                }
            })
            .collect()
    }
}

/// The transcript `index` of those of a size, given its bytes.
pub(crate) fn transcript_of(data: &[u8], frames: usize, index: usize) -> Transcript<'_> {
    let secrets = session_keys(frames, index);
    Transcript {
        data,
        domain: named("domain", &[]),
        custody: named("custody", &[frames, index]),
        keys: [
            (0, 1, *secrets[0].public_key()),
            (1, 1, *secrets[1].public_key()),
        ],
    }
}

/// A file of a length, written by `write` unless it is there.
fn make(
    path: &Path,
    length: usize,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() == length as u64) {
        return Ok(());
    }
    eprintln!("making {}", path.display());
    let unfinished = path.with_extension("part");
    let mut file = BufWriter::new(File::create(&unfinished)?);
    write(&mut file)?;
    file.into_inner()?.sync_all()?;
    fs::rename(unfinished, path)
}

/// A digest of a name and numbers.
fn named(name: &str, numbers: &[usize]) -> Digest {
    let mut bytes = format!("pSymm bench {name}").into_bytes();
    for number in numbers {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    keccak256(&bytes)
}

fn secret(seed: Digest) -> SecretKey {
    SecretKey::from_bytes(&seed).expect("one digest in 2^128 is no key")
}

fn session_keys(frames: usize, index: usize) -> [SecretKey; 2] {
    [0, 1].map(|lane| secret(named("session key", &[frames, index, lane])))
}

/// Numbers that look random (Steele, Lea and Flood's SplitMix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Printable ASCII, as payloads are.
    pub(crate) fn text(&mut self, length: usize) -> Vec<u8> {
        (0..length)
            .map(|_| b'0' + (self.next() % 75) as u8)
            .collect()
    }
}

fn write_transcript(file: &mut impl io::Write, frames: usize, index: usize) -> io::Result<()> {
    let transcript = transcript_of(&[], frames, index);
    let secrets = session_keys(frames, index);
    let mut numbers = Numbers((frames as u64) << 32 | index as u64);
    let mut heads = [transcript.custody; 2];
    let mut seqs = [0u64; 2];
    let mut sending_time = 1_790_000_000_000_000_000u64;
    let mut written = 0;
    while written < frames {
        // Digests chain, so headers come one after another; signing them does not.
        let block: Vec<(Header, Vec<u8>)> = (written..frames.min(written + BLOCK))
            .map(|_| {
                let lane = (numbers.next() & 1) as usize;
                sending_time += 1 + numbers.next() % 10_000_000;
                let header = Header {
                    custody: transcript.custody,
                    lane: lane as u8,
                    seq: seqs[lane] + 1,
                    previous: heads[lane],
                    peer_seq: seqs[1 - lane],
                    peer_digest: heads[1 - lane],
                    sending_time,
                };
                let payload = numbers.text(PAYLOAD);
                heads[lane] = frame::digest(&transcript.domain, &header, &payload);
                seqs[lane] += 1;
                (header, payload)
            })
            .collect();
        let signed = on_all_cores(&block, |(header, payload)| {
            let key = &secrets[usize::from(header.lane)];
            frame::sign(key, &transcript.domain, header, payload).expect("the header is in form")
        });
        for raw in &signed {
            file.write_all(raw)?;
        }
        written += block.len();
    }
    Ok(())
}

/// A digest and a signature.
const RECORD: usize = 32 + 65;

fn write_signatures(file: &mut impl io::Write, count: usize, keys: usize) -> io::Result<()> {
    let all: Vec<usize> = (0..count).collect();
    for block in all.chunks(BLOCK) {
        let records = on_all_cores(block, |index| {
            let digest = named("digest", &[count, keys, *index]);
            let key = secret(named("key", &[count, keys, index % keys]));
            let mut record = [0; RECORD];
            record[..32].copy_from_slice(&digest);
            record[32..].copy_from_slice(&key.sign(&digest));
            record
        });
        records
            .iter()
            .try_for_each(|record| file.write_all(record))?;
    }
    for block in all[..keys.min(count)].chunks(BLOCK) {
        let records = on_all_cores(block, |index| {
            *secret(named("key", &[count, keys, *index]))
                .public_key()
                .as_bytes()
        });
        records.iter().try_for_each(|key| file.write_all(key))?;
    }
    // Fewer signatures than keys: the file still holds a place for each key.
    (count..keys).try_for_each(|_| file.write_all(&[0; 64]))
}

fn read_signatures(bytes: &[u8], count: usize, keys: usize) -> io::Result<Signatures> {
    let (records, points) = bytes.split_at(count * RECORD);
    let signed = records
        .chunks_exact(RECORD)
        .enumerate()
        .map(|(index, record)| {
            let mut one = Signed {
                digest: [0; 32],
                signature: [0; 65],
                key: (index % keys) as u32,
            };
            one.digest.copy_from_slice(&record[..32]);
            one.signature.copy_from_slice(&record[32..]);
            one
        })
        .collect();
    let points: Vec<[u8; 64]> = points.as_chunks().0.to_vec();
    let keys = on_all_cores(&points[..keys.min(count)], |point| {
        PublicKey::from_bytes(*point)
    });
    let keys = keys.into_iter().collect::<Result<_, _>>();
    Ok(Signatures {
        signed,
        keys: keys.map_err(io::Error::other)?,
    })
}

fn on_all_cores<T: Sync, U: Send>(items: &[T], work: impl Fn(&T) -> U + Sync) -> Vec<U> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let share = items.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = items
            .chunks(share)
            .map(|chunk| scope.spawn(|| chunk.iter().map(&work).collect::<Vec<U>>()))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("making inputs does not panic"))
            .collect()
    })
}
