//! The peers' shared object, loaded and made safe to call.

use core::ffi::{CStr, c_char, c_void};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use _core::secp256k1::SecretKey;
use libloading::{Library, Symbol};

use crate::inputs::{Numbers, PAYLOAD};
use crate::interface::{KeccakPeer, LAYOUT, Peers, Poseidon2Peer, SignaturePeer, Signed};
use crate::rounds::timed;

/// The peers, each from the build in which it is fastest.
pub(crate) struct Fastest {
    pub(crate) peers: Peers,
    /// Which build that is, by the peers' names.
    pub(crate) builds: Vec<(String, String)>,
}

/// Loads builds of the peers and takes each peer from where it is fastest.
///
/// Instructions that speed one peer up slow another down (rustc spoils plain Keccak with
/// AVX-512), so no build is best for all.
pub(crate) fn load(paths: &[&Path]) -> Result<Fastest, Box<dyn Error>> {
    let mut builds = Vec::new();
    for path in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        builds.push((name.into_owned(), load_build(path)?));
    }
    let (_, mut best) = *builds.first().ok_or("no build of the peers is given")?;
    let mut chosen = Vec::new();
    let mut choose = |name: String, times: &mut dyn FnMut(&Peers) -> Duration| {
        let at = fastest(&builds, times);
        chosen.push((name, builds[at].0.clone()));
        builds[at].1
    };
    for at in 0..best.signatures.len() {
        let name = best.signatures[at].called();
        let work = SignatureWork::new();
        let from = choose(name, &mut |peers| work.time(peers.signatures[at]));
        best.signatures[at] = from.signatures[at];
    }
    for at in 0..best.keccak.len() {
        let name = best.keccak[at].called();
        let mut digests = vec![[0; 32]; 256];
        let messages = Numbers(1).text(PAYLOAD * digests.len());
        let from = choose(name, &mut |peers| {
            clocked(|| peers.keccak[at].hash_into(&messages, PAYLOAD, &mut digests))
        });
        best.keccak[at] = from.keccak[at];
    }
    for at in 0..best.poseidon2.len() {
        let name = best.poseidon2[at].called();
        let from = choose(name, &mut |peers| {
            let mut pairs = peers.poseidon2[at].pairs(&[[[1; 32], [2; 32]]; 64]);
            clocked(|| pairs.hash())
        });
        best.poseidon2[at] = from.poseidon2[at];
    }
    Ok(Fastest {
        peers: best,
        builds: chosen,
    })
}

/// Which build does some work in the least time, of many turns.
fn fastest(builds: &[(String, Peers)], times: &mut dyn FnMut(&Peers) -> Duration) -> usize {
    const TURNS: usize = 41;
    let mut least = vec![Duration::MAX; builds.len()];
    if builds.len() > 1 {
        for _ in 0..TURNS {
            for (least, (_, peers)) in least.iter_mut().zip(builds) {
                *least = (*least).min(times(peers));
            }
        }
    }
    let order = least.iter().enumerate().min_by_key(|(_, time)| **time);
    order.map_or(0, |(at, _)| at)
}

fn clocked<T>(work: impl FnOnce() -> T) -> Duration {
    timed(1, work).time
}

/// Some signatures to tell builds apart by: verifying and recovering count alike.
struct SignatureWork {
    signed: Vec<Signed>,
    keys: Vec<[u8; 64]>,
}

impl SignatureWork {
    fn new() -> Self {
        let (mut signed, mut keys) = (Vec::new(), Vec::new());
        for one in 1..=32 {
            let key = SecretKey::from_bytes(&[one; 32]).expect("it is below the order");
            keys.push(*key.public_key().as_bytes());
            signed.push(Signed {
                digest: [one; 32],
                signature: key.sign(&[one; 32]),
                key: u32::from(one) - 1,
            });
        }
        Self { signed, keys }
    }

    fn time(&self, peer: SignaturePeer) -> Duration {
        let keys = peer.keys(&self.keys);
        let mut recovered = vec![[0; 64]; self.signed.len()];
        clocked(|| {
            peer.recover_into(&self.signed, &mut recovered);
            keys.verify(&self.signed)
        })
    }
}

/// Loads one build. It stays loaded until the process ends.
fn load_build(path: &Path) -> Result<Peers, Box<dyn Error>> {
    // SAFETY: the library is built from `benches/peers`; loading it runs nothing.
    let library = unsafe { Library::new(path)? };
    let peers = {
        // SAFETY: the library exports this function with this type.
        let give: Symbol<'_, unsafe extern "C" fn() -> Peers> = unsafe { library.get("peers")? };
        // SAFETY: it only returns a table.
        unsafe { give() }
    };
    if peers.layout != LAYOUT {
        return Err("the peers were built for another bench: build them again".into());
    }
    core::mem::forget(library);
    Ok(peers)
}

fn text(name: *const c_char) -> String {
    // SAFETY: the peers' names are literals of a library that stays loaded.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_string_lossy().into_owned()
}

impl SignaturePeer {
    pub(crate) fn called(&self) -> String {
        text(self.name)
    }

    /// The keys in the peer's own form.
    pub(crate) fn keys(self, keys: &[[u8; 64]]) -> PeerKeys {
        // SAFETY: the pointer and length are those of a slice.
        let keys = unsafe { (self.open)(keys.as_ptr(), keys.len()) };
        PeerKeys { peer: self, keys }
    }

    /// The keys that made the signatures, into `keys`, which has as many places.
    pub(crate) fn recover_into(&self, signed: &[Signed], keys: &mut [[u8; 64]]) {
        assert_eq!(signed.len(), keys.len());
        // SAFETY: both pointers are those of slices of this length.
        unsafe { (self.recover)(signed.as_ptr(), signed.len(), keys.as_mut_ptr()) };
    }
}

/// Keys that a peer has parsed.
pub(crate) struct PeerKeys {
    peer: SignaturePeer,
    keys: *mut c_void,
}

impl PeerKeys {
    /// How many of the signatures hold.
    pub(crate) fn verify(&self, signed: &[Signed]) -> usize {
        // SAFETY: the keys are open, and pointer and length are those of a slice.
        unsafe { (self.peer.verify)(self.keys, signed.as_ptr(), signed.len()) }
    }
}

impl Drop for PeerKeys {
    fn drop(&mut self) {
        // SAFETY: the keys were opened once and are closed once.
        unsafe { (self.peer.close)(self.keys) };
    }
}

impl KeccakPeer {
    pub(crate) fn called(&self) -> String {
        text(self.name)
    }

    /// The digests of messages of `each` bytes, back to back.
    pub(crate) fn hash_into(&self, messages: &[u8], each: usize, digests: &mut [[u8; 32]]) {
        assert_eq!(messages.len(), each * digests.len());
        // SAFETY: both pointers are those of slices that hold as many messages.
        unsafe {
            (self.hash)(messages.as_ptr(), each, digests.len(), digests.as_mut_ptr());
        }
    }
}

impl Poseidon2Peer {
    pub(crate) fn called(&self) -> String {
        text(self.name)
    }

    /// The pairs in the peer's own form.
    pub(crate) fn pairs(self, pairs: &[[[u8; 32]; 2]]) -> PeerPairs {
        // SAFETY: the pointer and length are those of a slice.
        let opened = unsafe { (self.open)(pairs.as_ptr(), pairs.len()) };
        PeerPairs {
            peer: self,
            pairs: opened,
            length: pairs.len(),
        }
    }
}

/// Pairs that a peer has parsed, and their hashes once it has computed them.
pub(crate) struct PeerPairs {
    peer: Poseidon2Peer,
    pairs: *mut c_void,
    length: usize,
}

impl PeerPairs {
    /// Hashes all pairs.
    pub(crate) fn hash(&mut self) {
        // SAFETY: the pairs are open.
        unsafe { (self.peer.hash)(self.pairs) };
    }

    /// The hashes, big-endian.
    pub(crate) fn hashes(&self) -> Vec<[u8; 32]> {
        let mut hashes = vec![[0; 32]; self.length];
        // SAFETY: the pairs are open and there is a place for each hash.
        unsafe { (self.peer.read)(self.pairs, hashes.as_mut_ptr()) };
        hashes
    }
}

impl Drop for PeerPairs {
    fn drop(&mut self) {
        // SAFETY: the pairs were opened once and are closed once.
        unsafe { (self.peer.close)(self.pairs) };
    }
}
