// SPDX-License-Identifier: MIT
pragma solidity 0.8.30;

import {LeanIMT} from "./LeanIMT.sol";
import {Poseidon2} from "./Poseidon2.sol";
import {TokenPortal} from "./TokenPortal.sol";
import {IPSymm} from "./interfaces/IPSymm.sol";
import {ITokenPortal} from "./interfaces/ITokenPortal.sol";
import {IVerifier} from "./interfaces/IVerifier.sol";

/// @title PSymm
/// @notice Custody of notes. What it does and promises is said in IPSymm, what holds always in
/// PROPERTIES.md.
contract PSymm is IPSymm {
    using LeanIMT for LeanIMT.Tree;

    /* CONSTANTS */

    /// @dev Order of BN254's scalar field. A public input at or above it would be another name for a
    /// smaller one, hence another nullifier for the same note.
    uint256 private constant _FIELD = 0x30644e72e131a029b85045b68181585d2833e84879b9709143e1f593f0000001;

    uint256 private constant _AMOUNT_END = 1 << 128;

    uint256 private constant _MEMO_LENGTH = 256;

    /// @dev Where alone contracts work whose reference string is not Ignition's.
    uint256 private constant _DEV_CHAIN = 31_337;

    bytes32 private constant _DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");

    bytes32 private constant _CTC_TYPE = keccak256(
        "CustodyToCustody(bytes32 nullifier0,bytes32 nullifier1,bytes32 commitment0,bytes32 commitment1,address relayer,address feeToken,uint256 fee,bytes32 memos,uint256 deadline)"
    );

    bytes32 private constant _CTA_TYPE = keccak256(
        "CustodyToAddress(bytes32 nullifier0,bytes32 nullifier1,bytes32 change,address token,uint256 amount,address recipient,address relayer,uint256 fee,bytes32 memos,uint256 deadline)"
    );

    /* WIRING */

    /// @inheritdoc IPSymm
    ITokenPortal public immutable portal;

    /// @inheritdoc IPSymm
    IVerifier public immutable ctcVerifier;

    /// @inheritdoc IPSymm
    IVerifier public immutable ctaVerifier;

    bool private immutable _devOnly;

    uint256 private immutable _firstChain;

    bytes32 private immutable _firstDomain;

    /* STATE */

    LeanIMT.Tree private _tree;

    /// @inheritdoc IPSymm
    mapping(uint256 root => bool) public isKnownRoot;

    /// @inheritdoc IPSymm
    mapping(uint256 nullifier => bool) public isSpent;

    /// @inheritdoc IPSymm
    mapping(uint256 commitment => bool) public isKnownCommitment;

    bool private transient _entered;

    /* CONSTRUCTION */

    /// @dev Makes its own portal, so that the two belong to each other from the start.
    constructor(IVerifier ctcVerifier_, IVerifier ctaVerifier_) {
        if (address(ctcVerifier_).code.length == 0) revert VerifierHasNoCode(address(ctcVerifier_));
        if (address(ctaVerifier_).code.length == 0) revert VerifierHasNoCode(address(ctaVerifier_));
        string memory ofCtc = ctcVerifier_.REFERENCE_STRING();
        string memory ofCta = ctaVerifier_.REFERENCE_STRING();
        if (keccak256(bytes(ofCtc)) != keccak256(bytes(ofCta))) revert ReferenceStringsDiffer(ofCtc, ofCta);
        // Whatever is not Ignition's may have a known secret.
        bool devOnly = keccak256(bytes(ofCtc)) != keccak256("ignition");
        if (devOnly && block.chainid != _DEV_CHAIN) revert DevReferenceString(block.chainid);

        _devOnly = devOnly;
        ctcVerifier = ctcVerifier_;
        ctaVerifier = ctaVerifier_;
        portal = new TokenPortal();
        _firstChain = block.chainid;
        _firstDomain = _domain();
    }

    modifier alone() {
        if (_entered) revert Reentered();
        _entered = true;
        _;
        _entered = false;
    }

    /* MOVES */

    /// @inheritdoc IPSymm
    function addressToCustody(address token, uint256 amount, uint256 inner, bytes calldata memo)
        external
        alone
        returns (uint256 commitment)
    {
        return _deposit(token, amount, inner, memo);
    }

    /// @inheritdoc IPSymm
    function addressToCustodyWithPermit(
        address token,
        uint256 amount,
        uint256 inner,
        bytes calldata memo,
        uint256 permitDeadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external alone returns (uint256 commitment) {
        portal.permit(msg.sender, token, amount, permitDeadline, v, r, s);
        return _deposit(token, amount, inner, memo);
    }

    /// @inheritdoc IPSymm
    function custodyToCustody(CtcCall calldata call) external alone {
        _expectMemo(call.memo0);
        _expectMemo(call.memo1);
        bool free = call.fee == 0;
        if ((call.relayer == address(0)) != free || (call.feeToken == address(0)) != free) {
            revert FeeIncomplete(call.relayer, call.feeToken, call.fee);
        }
        _expectAmount(call.fee);
        if (!free) _expectPayee(call.relayer);
        _expectCommon(call.root, call.nullifiers, call.deadline);
        _expectRoom(2);
        _spend(call.nullifiers);
        _take(call.commitments[0]);
        _take(call.commitments[1]);

        bytes32 digest = ctcDigest(call);
        bytes32[] memory inputs = new bytes32[](9);
        inputs[0] = bytes32(call.root);
        inputs[1] = bytes32(call.nullifiers[0]);
        inputs[2] = bytes32(call.nullifiers[1]);
        inputs[3] = bytes32(call.commitments[0]);
        inputs[4] = bytes32(call.commitments[1]);
        inputs[5] = bytes32(uint256(uint160(call.feeToken)));
        inputs[6] = bytes32(call.fee);
        inputs[7] = digest >> 128;
        inputs[8] = bytes32(uint256(uint128(uint256(digest))));
        _expectProof(ctcVerifier, call.proof, inputs);

        (uint256 index, uint256 newRoot) = _tree.insertTwo(call.commitments[0], call.commitments[1]);
        isKnownRoot[newRoot] = true;
        emit NoteInserted(index, call.commitments[0], call.memo0);
        emit NoteInserted(index + 1, call.commitments[1], call.memo1);

        if (!free) {
            emit FeePaid(call.feeToken, call.relayer, call.fee);
            portal.pay(call.feeToken, call.relayer, call.fee);
        }
    }

    /// @inheritdoc IPSymm
    function custodyToAddress(CtaCall calldata call) external alone {
        _expectMemo(call.memo);
        if (call.amount == 0) revert AmountZero();
        _expectAmount(call.amount);
        bool free = call.fee == 0;
        if ((call.relayer == address(0)) != free) revert FeeIncomplete(call.relayer, call.token, call.fee);
        if (call.fee > call.amount) revert FeeAboveAmount(call.fee, call.amount);
        _expectPayee(call.recipient);
        if (!free) _expectPayee(call.relayer);
        _expectCommon(call.root, call.nullifiers, call.deadline);
        _expectRoom(1);
        _spend(call.nullifiers);
        _take(call.change);

        bytes32 digest = ctaDigest(call);
        bytes32[] memory inputs = new bytes32[](8);
        inputs[0] = bytes32(call.root);
        inputs[1] = bytes32(call.nullifiers[0]);
        inputs[2] = bytes32(call.nullifiers[1]);
        inputs[3] = bytes32(call.change);
        inputs[4] = bytes32(uint256(uint160(call.token)));
        inputs[5] = bytes32(call.amount);
        inputs[6] = digest >> 128;
        inputs[7] = bytes32(uint256(uint128(uint256(digest))));
        _expectProof(ctaVerifier, call.proof, inputs);

        _insert(call.change, call.memo);
        emit Withdrawn(call.token, call.recipient, call.amount, call.relayer, call.fee);

        if (!free) portal.pay(call.token, call.relayer, call.fee);
        if (call.amount != call.fee) portal.pay(call.token, call.recipient, call.amount - call.fee);
    }

    /* VIEWS */

    /// @inheritdoc IPSymm
    function root() external view returns (uint256) {
        return _tree.root();
    }

    /// @inheritdoc IPSymm
    function size() external view returns (uint256) {
        return _tree.size;
    }

    /// @inheritdoc IPSymm
    function referenceString() external view returns (string memory) {
        return ctcVerifier.REFERENCE_STRING();
    }

    /// @inheritdoc IPSymm
    function domainSeparator() public view returns (bytes32) {
        // After a fork the other chain's signatures must not count here.
        return block.chainid == _firstChain ? _firstDomain : _domain();
    }

    /// @inheritdoc IPSymm
    function ctcDigest(CtcCall calldata call) public view returns (bytes32) {
        return _digest(
            keccak256(
                abi.encode(
                    _CTC_TYPE,
                    call.nullifiers,
                    call.commitments,
                    call.relayer,
                    call.feeToken,
                    call.fee,
                    keccak256(bytes.concat(call.memo0, call.memo1)),
                    call.deadline
                )
            )
        );
    }

    /// @inheritdoc IPSymm
    function ctaDigest(CtaCall calldata call) public view returns (bytes32) {
        return _digest(
            keccak256(
                abi.encode(
                    _CTA_TYPE,
                    call.nullifiers,
                    call.change,
                    call.token,
                    call.amount,
                    call.recipient,
                    call.relayer,
                    call.fee,
                    keccak256(call.memo),
                    call.deadline
                )
            )
        );
    }

    /* WHAT IS REFUSED */

    /// @dev The chain's id can change under a deployed contract: each move asks for it again.
    function _expectChain() private view {
        if (_devOnly && block.chainid != _DEV_CHAIN) revert DevReferenceString(block.chainid);
    }

    function _expectMemo(bytes calldata memo) private pure {
        if (memo.length != _MEMO_LENGTH) revert MemoLength(memo.length);
    }

    function _expectAmount(uint256 amount) private pure {
        if (amount >= _AMOUNT_END) revert AmountTooLarge(amount);
    }

    function _expectInField(uint256 value) private pure {
        if (value >= _FIELD) revert NotInField(value);
    }

    function _expectPayee(address payee) private view {
        if (payee == address(0) || payee == address(this) || payee == address(portal)) {
            revert PayeeForbidden(payee);
        }
    }

    function _expectRoom(uint256 leaves) private view {
        if (_tree.size > LeanIMT.CAPACITY - leaves) revert TreeFull(_tree.size);
    }

    /// @dev What a CTC and a CTA have in common.
    function _expectCommon(uint256 root_, uint256[2] calldata nullifiers, uint256 deadline) private view {
        if (block.timestamp > deadline) revert DeadlinePassed(deadline, block.timestamp);
        _expectInField(root_);
        _expectInField(nullifiers[0]);
        _expectInField(nullifiers[1]);
        if (!isKnownRoot[root_]) revert RootUnknown(root_);
    }

    /// @dev Comes after the cheap refusals and after nullifiers and commitments are taken: a proof that
    /// does not hold undoes that, and a verifier cannot call back.
    function _expectProof(IVerifier verifier, bytes calldata proof, bytes32[] memory inputs) private view {
        _expectChain();
        try verifier.verify(proof, inputs) returns (bool holds) {
            if (!holds) revert ProofInvalid();
        } catch {
            revert ProofInvalid();
        }
    }

    /* WHAT CHANGES */

    function _deposit(address token, uint256 amount, uint256 inner, bytes calldata memo)
        private
        returns (uint256 commitment)
    {
        // What no proof could ever take out again must not come in.
        _expectChain();
        _expectMemo(memo);
        if (amount == 0) revert AmountZero();
        _expectAmount(amount);
        if (inner == 0) revert InnerZero();
        _expectInField(inner);
        _expectRoom(1);

        commitment = Poseidon2.hash3(inner, uint256(uint160(token)), amount);
        _take(commitment);
        _insert(commitment, memo);
        emit Deposited(token, msg.sender, amount, commitment);

        portal.collect(msg.sender, token, amount);
    }

    /// @dev One after the other, so that a note named twice is refused by its own second use.
    function _spend(uint256[2] calldata nullifiers) private {
        for (uint256 i = 0; i < 2; ++i) {
            uint256 nullifier = nullifiers[i];
            if (isSpent[nullifier]) revert NullifierAlreadySpent(nullifier);
            isSpent[nullifier] = true;
            emit NullifierSpent(nullifier);
        }
    }

    /// @dev A commitment enters the tree once: a note has one nullifier and one life.
    function _take(uint256 commitment) private {
        if (commitment == 0) revert CommitmentZero();
        _expectInField(commitment);
        if (isKnownCommitment[commitment]) revert CommitmentKnown(commitment);
        isKnownCommitment[commitment] = true;
    }

    function _insert(uint256 commitment, bytes calldata memo) private {
        (uint256 index, uint256 newRoot) = _tree.insert(commitment);
        isKnownRoot[newRoot] = true;
        emit NoteInserted(index, commitment, memo);
    }

    /* EIP-712 */

    function _domain() private view returns (bytes32) {
        return
            keccak256(
                abi.encode(_DOMAIN_TYPE, keccak256("pSymm"), keccak256("1"), block.chainid, address(this))
            );
    }

    function _digest(bytes32 structHash) private view returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domainSeparator(), structHash));
    }
}
