// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IPartyRegistry} from "./interfaces/IPartyRegistry.sol";

/// @title PartyRegistry
/// @notice Where parties find each other, and where they revoke session keys; see IPartyRegistry.
contract PartyRegistry is IPartyRegistry {
    uint256 private constant _ENDPOINT_MOST = 256;

    bytes32 private constant _DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant _REVOCATION_TYPE =
        keccak256("KeyRevocation(address wallet,address key,uint64 fromSeq)");

    /// @dev Half of secp256k1's order: a signature has one valid form, the one with the lower s.
    uint256 private constant _HALF_ORDER = 0x7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0;

    mapping(Role role => address[] accounts) private _accounts;

    /// @dev Place in `_accounts`, plus one; zero for who is not listed.
    mapping(Role role => mapping(address account => uint256)) private _place;

    mapping(Role role => mapping(address account => Party)) private _parties;

    mapping(address wallet => mapping(address key => Revocation)) private _revocations;

    /* LISTING */

    /// @inheritdoc IPartyRegistry
    function register(Role role, string calldata endpoint, bytes calldata publicKey) external {
        if (role == Role.None) revert RoleNone();
        _expectEndpoint(bytes(endpoint));
        if (publicKey.length != 64) revert PublicKeyLength(publicKey.length);
        address ofKey = address(uint160(uint256(keccak256(publicKey))));
        if (ofKey != msg.sender) revert PublicKeyNotOfSender(msg.sender, ofKey);

        if (_place[role][msg.sender] == 0) {
            _accounts[role].push(msg.sender);
            _place[role][msg.sender] = _accounts[role].length;
        }
        _parties[role][msg.sender] = Party(msg.sender, role, endpoint, publicKey, uint64(block.timestamp));
        emit PartyUpdated(role, msg.sender, endpoint, publicKey);
    }

    /// @inheritdoc IPartyRegistry
    function remove(Role role) external {
        uint256 place = _place[role][msg.sender];
        if (place == 0) revert PartyUnknown(role, msg.sender);

        address[] storage accounts = _accounts[role];
        address last = accounts[accounts.length - 1];
        accounts[place - 1] = last;
        _place[role][last] = place;
        accounts.pop();
        delete _place[role][msg.sender];
        delete _parties[role][msg.sender];
        emit PartyRemoved(role, msg.sender);
    }

    /* SESSION KEYS */

    /// @inheritdoc IPartyRegistry
    function revokeKey(address key, uint64 fromSeq) external {
        _revoke(msg.sender, key, fromSeq);
    }

    /// @inheritdoc IPartyRegistry
    function revokeKeyFor(address wallet, address key, uint64 fromSeq, uint8 v, bytes32 r, bytes32 s)
        external
    {
        bytes32 digest = revocationDigest(wallet, key, fromSeq);
        address signer = uint256(s) > _HALF_ORDER ? address(0) : ecrecover(digest, v, r, s);
        if (signer == address(0) || signer != wallet) revert NotSignedByWallet(wallet, signer);
        _revoke(wallet, key, fromSeq);
    }

    /// @inheritdoc IPartyRegistry
    function revocation(address wallet, address key) external view returns (Revocation memory) {
        return _revocations[wallet][key];
    }

    /// @inheritdoc IPartyRegistry
    function revocationDigest(address wallet, address key, uint64 fromSeq) public view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(_DOMAIN_TYPE, keccak256("pSymm"), keccak256("1"), block.chainid, address(this))
        );
        bytes32 structHash = keccak256(abi.encode(_REVOCATION_TYPE, wallet, key, fromSeq));
        return keccak256(abi.encodePacked(hex"1901", domain, structHash));
    }

    /// @dev Once revoked, a key stays revoked: what is written only ever takes more numbers from it. What
    /// takes none is no error, so that two watchers with one signature do not harm each other.
    function _revoke(address wallet, address key, uint64 fromSeq) private {
        if (fromSeq == 0) revert SeqZero();
        Revocation storage known = _revocations[wallet][key];
        if (known.fromSeq != 0 && fromSeq >= known.fromSeq) return;
        _revocations[wallet][key] = Revocation(fromSeq, uint64(block.number));
        emit KeyRevoked(wallet, key, fromSeq);
    }

    /* READING */

    /// @inheritdoc IPartyRegistry
    function get(Role role, address account) external view returns (Party memory) {
        if (_place[role][account] == 0) revert PartyUnknown(role, account);
        return _parties[role][account];
    }

    /// @inheritdoc IPartyRegistry
    function isListed(Role role, address account) external view returns (bool) {
        return _place[role][account] != 0;
    }

    /// @inheritdoc IPartyRegistry
    function count(Role role) external view returns (uint256) {
        return _accounts[role].length;
    }

    /// @inheritdoc IPartyRegistry
    function list(Role role, uint256 offset, uint256 limit) external view returns (Party[] memory page) {
        address[] storage accounts = _accounts[role];
        uint256 length = accounts.length;
        if (offset >= length) return page;
        uint256 left = length - offset;
        page = new Party[](limit < left ? limit : left);
        for (uint256 i = 0; i < page.length; ++i) {
            page[i] = _parties[role][accounts[offset + i]];
        }
    }

    /* WHAT IS REFUSED */

    /// @dev Printable ASCII alone: an endpoint is shown to people and put into URLs.
    function _expectEndpoint(bytes calldata endpoint) private pure {
        if (endpoint.length > _ENDPOINT_MOST) revert EndpointTooLong(endpoint.length, _ENDPOINT_MOST);
        for (uint256 i = 0; i < endpoint.length; ++i) {
            if (endpoint[i] < 0x21 || endpoint[i] > 0x7e) revert EndpointNotPrintable(i, endpoint[i]);
        }
    }
}
