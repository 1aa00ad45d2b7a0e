// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

/// @dev What an OddToken does otherwise than a plain ERC-20; any of them, added up.
library Odd {
    uint256 internal constant NOTHING_RETURNED = 1 << 0;
    uint256 internal constant RETURNS_FALSE = 1 << 1;
    uint256 internal constant APPROVES_VIA_ZERO = 1 << 2;
    uint256 internal constant TAKES_FEE = 1 << 3;
    uint256 internal constant NO_SYMBOL = 1 << 4;
    uint256 internal constant SYMBOL_IS_BYTES32 = 1 << 5;
    uint256 internal constant NO_DECIMALS = 1 << 6;
    uint256 internal constant PAUSED = 1 << 7;
    uint256 internal constant REBASES = 1 << 8;
    uint256 internal constant GROWS_WITH_TIME = 1 << 9;
    uint256 internal constant OTHER_PERMIT = 1 << 10;
    uint256 internal constant PHANTOM = 1 << 11;
    uint256 internal constant VIEWS_BURN_GAS = 1 << 12;
    uint256 internal constant HOLDER_PAYS_MORE = 1 << 13;
    uint256 internal constant FEE_ON_THE_WAY_OUT = 1 << 14;
    uint256 internal constant CALLS_PAYEE = 1 << 15;
    uint256 internal constant APPROVE_DOES_NOTHING = 1 << 16;
    uint256 internal constant MOVES_NOTHING = 1 << 17;
    uint256 internal constant PACKED_BALANCE = 1 << 18;
    uint256 internal constant HUGE_SYMBOL = 1 << 19;
}

/// @title OddToken
/// @notice An ERC-20 with the habits of real ones, for tests: anyone mints, bars, and does as an issuer can.
contract OddToken {
    uint256 public immutable odd;
    uint256 private immutable _decimals;
    bytes private _symbol;
    mapping(address => uint256) private _held;
    mapping(address owner => mapping(address spender => uint256)) public allowance;
    mapping(address => bool) public barred;
    mapping(address => uint256) public nonces;
    uint256 public rate = 1e18;
    uint256 private immutable _start = block.timestamp;

    constructor(bytes memory symbol_, uint256 decimals_, uint256 odd_) {
        (_symbol, _decimals, odd) = (symbol_, decimals_, odd_);
    }

    function _is(uint256 one) private view returns (bool) {
        return odd & one != 0;
    }

    function mint(address to, uint256 amount) external {
        _held[to] += amount;
    }

    function bar(address account, bool yes) external {
        barred[account] = yes;
    }

    function setRate(uint256 to) external {
        rate = to;
    }

    function balanceOf(address account) public view returns (uint256) {
        uint256 held = _held[account];
        if (_is(Odd.PACKED_BALANCE)) held &= type(uint96).max;
        if (_is(Odd.REBASES)) held = held * rate / 1e18;
        if (_is(Odd.GROWS_WITH_TIME)) held += held * (block.timestamp - _start) / 365 days;
        return held;
    }

    function decimals() external view returns (uint256) {
        if (_is(Odd.NO_DECIMALS)) revert();
        if (_is(Odd.VIEWS_BURN_GAS)) {
            while (true) {}
        }
        return _decimals;
    }

    function symbol() external view returns (string memory) {
        if (_is(Odd.NO_SYMBOL)) {
            assembly {
                invalid()
            }
        }
        if (_is(Odd.HUGE_SYMBOL)) {
            assembly {
                return(0, 0x40000)
            }
        }
        if (_is(Odd.SYMBOL_IS_BYTES32)) {
            bytes32 word = bytes32(_symbol);
            assembly {
                mstore(0, word)
                return(0, 32)
            }
        }
        return string(_symbol);
    }

    function approve(address spender, uint256 amount) external returns (bool) {
        if (_is(Odd.APPROVES_VIA_ZERO)) require(amount == 0 || allowance[msg.sender][spender] == 0);
        if (!_is(Odd.APPROVE_DOES_NOTHING)) allowance[msg.sender][spender] = amount;
        return _answer();
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        uint256 fee = _is(Odd.FEE_ON_THE_WAY_OUT) ? amount / 100 : 0;
        _move(msg.sender, to, amount, fee);
        return _answer();
    }

    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        require(allowance[from][msg.sender] >= amount, "allowance");
        allowance[from][msg.sender] -= amount;
        _move(from, to, amount, 0);
        return _answer();
    }

    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        require(_is(Odd.OTHER_PERMIT));
        return keccak256("not of this token");
    }

    /// @dev As a wrapped coin: takes any call, and says nothing.
    fallback() external {
        require(_is(Odd.PHANTOM));
    }

    function _answer() private view returns (bool) {
        if (_is(Odd.NOTHING_RETURNED)) {
            assembly {
                return(0, 0)
            }
        }
        return !_is(Odd.RETURNS_FALSE);
    }

    function _move(address from, address to, uint256 amount, uint256 fee) private {
        require(!_is(Odd.PAUSED), "paused");
        require(!barred[from] && !barred[to], "barred");
        if (_is(Odd.RETURNS_FALSE) || _is(Odd.MOVES_NOTHING)) return;
        if (_is(Odd.TAKES_FEE)) fee = amount / 100;
        if (_is(Odd.REBASES)) (amount, fee) = (amount * 1e18 / rate, fee * 1e18 / rate);
        _held[from] -= amount + (_is(Odd.HOLDER_PAYS_MORE) ? 1 : 0);
        _held[to] += amount - fee;
        if (_is(Odd.CALLS_PAYEE) && to.code.length != 0) {
            (bool done,) = to.call(abi.encodeWithSignature("tokenFallback(address,uint256)", from, amount));
            require(done, "the payee takes no calls");
        }
    }
}

/// @title TokenProxy
/// @notice Stands before an OddToken as the proxies of real tokens do.
contract TokenProxy {
    address private immutable _admin = msg.sender;
    /// @dev keccak256("eip1967.proxy.implementation") - 1.
    bytes32 private constant _SLOT = 0x360894a13ba1a3210667c828492db98dca3e2076cc3735a50aab16d3c5a3a6d8;

    constructor(address implementation) {
        assembly {
            sstore(_SLOT, implementation)
        }
    }

    fallback() external payable {
        assembly {
            calldatacopy(0, 0, calldatasize())
            let done := delegatecall(gas(), sload(_SLOT), 0, calldatasize(), 0, 0)
            returndatacopy(0, 0, returndatasize())
            if iszero(done) { revert(0, returndatasize()) }
            return(0, returndatasize())
        }
    }
}
