// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title IPartyRegistry
/// @notice Where parties find each other: who offers itself in which role, at which endpoint, with which
/// public key. Anyone lists, changes and removes itself, nobody else can; there is no owner. And where a
/// wallet, listed or not, takes back what it delegated to a session key.
/// @dev A listing proves control of the account and nothing more. Endpoints are whatever the party says;
/// who connects checks that the other side holds the key. A revocation names a wallet and a key, never a
/// custody: who does not know the custody's frames learns only that this wallet has revoked some key.
interface IPartyRegistry {
    /// @notice In what capacity a party is listed. An account may hold several.
    enum Role {
        None,
        Trader,
        Solver,
        Relayer,
        Validator,
        Oracle,
        Watcher
    }

    /// @notice One listing.
    /// @param account The party's wallet.
    /// @param endpoint Where it listens, such as `ws://host:port/`; printable ASCII, at most 256 bytes.
    /// Empty for a party that only calls others.
    /// @param publicKey x ‖ y of the wallet's secp256k1 key, 64 bytes.
    /// @param updatedAt Block time of the last change, in seconds.
    struct Party {
        address account;
        Role role;
        string endpoint;
        bytes publicKey;
        uint64 updatedAt;
    }

    /// @notice From which frame on a session key no longer signs for a wallet.
    /// @param fromSeq The first seq that is taken from it; 0 for a key that was never revoked.
    /// @param blockNumber The block that set this `fromSeq`.
    struct Revocation {
        uint64 fromSeq;
        uint64 blockNumber;
    }

    /// @notice A party listed itself or changed its listing.
    event PartyUpdated(Role indexed role, address indexed account, string endpoint, bytes publicKey);

    /// @notice A party removed itself.
    event PartyRemoved(Role indexed role, address indexed account);

    /// @notice A wallet took a session key's frames from `fromSeq` on. It may come again for the same key with
    /// a lower `fromSeq`, never with a higher one.
    event KeyRevoked(address indexed wallet, address indexed key, uint64 fromSeq);

    /// @notice Role None is nobody's: name one of the others.
    error RoleNone();

    /// @notice The endpoint has more bytes than allowed.
    error EndpointTooLong(uint256 length, uint256 most);

    /// @notice The endpoint has a byte that is no printable ASCII character (0x21 to 0x7e) at this place.
    error EndpointNotPrintable(uint256 index, bytes1 found);

    /// @notice A public key is 64 bytes: x ‖ y, without a leading 04.
    error PublicKeyLength(uint256 length);

    /// @notice The key belongs to another account than the sender's.
    error PublicKeyNotOfSender(address sender, address ofKey);

    /// @notice That account has no listing in that role.
    error PartyUnknown(Role role, address account);

    /// @notice Frames are numbered from 1.
    error SeqZero();

    /// @notice The signature is another account's than the wallet's (0: it is nobody's, or its s is high).
    error NotSignedByWallet(address wallet, address signer);

    /// @notice Lists the sender in a role, or replaces its listing there.
    /// @param role Any but None.
    /// @param endpoint See `Party`.
    /// @param publicKey Must hash to the sender's address.
    function register(Role role, string calldata endpoint, bytes calldata publicKey) external;

    /// @notice Removes the sender from a role. The last of that role's list takes its place.
    function remove(Role role) external;

    /// @notice Takes the sender's session key `key` out of force from frame `fromSeq` on.
    /// @dev Final: it can be set to a lower seq, never to a higher one and never undone. A `fromSeq` that is
    /// not lower than the one known changes nothing, emits nothing and does not revert. The other side need
    /// not give back what it had covered before it could know.
    /// @param key The key's address. Nothing proves here that it was ever delegated.
    /// @param fromSeq At least 1.
    function revokeKey(address key, uint64 fromSeq) external;

    /// @notice `revokeKey` for a wallet that signed it, brought by anyone.
    /// @dev The signature needs neither nonce nor deadline: shown again, it changes nothing.
    /// @param v 27 or 28; `s` is the lower of the two possible.
    function revokeKeyFor(address wallet, address key, uint64 fromSeq, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Whether and from where on a wallet revoked a key.
    function revocation(address wallet, address key) external view returns (Revocation memory);

    /// @notice What the wallet signs for `revokeKeyFor`: EIP-712, domain "pSymm", version "1", this chain,
    /// this contract; `KeyRevocation(address wallet,address key,uint64 fromSeq)`.
    function revocationDigest(address wallet, address key, uint64 fromSeq) external view returns (bytes32);

    /// @notice One listing; reverts with `PartyUnknown` if there is none.
    function get(Role role, address account) external view returns (Party memory);

    /// @notice True, if the account is listed in that role.
    function isListed(Role role, address account) external view returns (bool);

    /// @notice How many are listed in a role.
    function count(Role role) external view returns (uint256);

    /// @notice A page of a role's list: from `offset` on, at most `limit`; empty beyond the end.
    /// @dev A removal moves the last listing, so who reads in several calls does so at one block.
    function list(Role role, uint256 offset, uint256 limit) external view returns (Party[] memory);
}
