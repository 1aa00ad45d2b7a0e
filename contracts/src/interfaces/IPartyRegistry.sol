// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @title IPartyRegistry
/// @notice Where parties find each other: who offers itself in which role, at which endpoint, with which
/// public key. Anyone lists, changes and removes itself, nobody else can; there is no owner.
/// @dev A listing proves control of the account and nothing more. Endpoints are whatever the party says;
/// who connects checks that the other side holds the key.
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

    /// @notice A party listed itself or changed its listing.
    event PartyUpdated(Role indexed role, address indexed account, string endpoint, bytes publicKey);

    /// @notice A party removed itself.
    event PartyRemoved(Role indexed role, address indexed account);

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

    /// @notice Lists the sender in a role, or replaces its listing there.
    /// @param role Any but None.
    /// @param endpoint See `Party`.
    /// @param publicKey Must hash to the sender's address.
    function register(Role role, string calldata endpoint, bytes calldata publicKey) external;

    /// @notice Removes the sender from a role. The last of that role's list takes its place.
    function remove(Role role) external;

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
