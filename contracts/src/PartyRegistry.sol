// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {IPartyRegistry} from "./interfaces/IPartyRegistry.sol";

/// @title PartyRegistry
/// @notice Where parties find each other; see IPartyRegistry.
contract PartyRegistry is IPartyRegistry {
    uint256 private constant _ENDPOINT_MOST = 256;

    mapping(Role role => address[] accounts) private _accounts;

    /// @dev Place in `_accounts`, plus one; zero for who is not listed.
    mapping(Role role => mapping(address account => uint256)) private _place;

    mapping(Role role => mapping(address account => Party)) private _parties;

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
