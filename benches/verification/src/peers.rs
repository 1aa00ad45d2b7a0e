//! The peers' shared object, loaded and made safe to call.

use core::ffi::{CStr, c_char, c_void};
use std::error::Error;
use std::path::Path;

use libloading::{Library, Symbol};

use crate::interface::{KeccakPeer, Peers, Poseidon2Peer, SignaturePeer, Signed};

/// Loads the peers. They stay loaded until the process ends.
pub(crate) fn load(path: &Path) -> Result<Peers, Box<dyn Error>> {
    // SAFETY: the library is built from `benches/peers`; loading it runs nothing.
    let library = unsafe { Library::new(path)? };
    let peers = {
        // SAFETY: the library exports this function with this type.
        let give: Symbol<'_, unsafe extern "C" fn() -> Peers> = unsafe { library.get("peers")? };
        // SAFETY: it only returns a table.
        unsafe { give() }
    };
    if peers.signed_size != size_of::<Signed>() {
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
