"""Simplify a graph as onnxscript's optimizer does: fold shape arithmetic, drop no-ops and unused nodes.

Its passes are assembled here because one of its rules searches the whole graph at every node: that takes seconds for
3,000 nodes, and minutes for SDXL's 20,000. (The rule makes a Split of two Slices; the exporter writes Splits itself.)
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules

# Largest constants that folding may read or make, in bytes: enough for shape arithmetic, too small for a weight.
FOLD_INPUT, FOLD_OUTPUT = 4096, 16384
ROUNDS = 2
# The optimizer's rules that match something in these graphs, in its order.
RULES = (
    *rules.mul_by_1_rule.commute(),
    rules.div_by_1_rule,
    rules.materialize_reshape_shape_rule,
    rules.no_op_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.squeeze_reshape_1d_rule,
    rules.fuse_pad_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
)


def fold(model: ir.Model) -> None:
    """Simplify `model` in place. A value that must not be folded has to be a graph input meanwhile."""
    common.InlinePass()(model)
    tidy = ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
    )
    for _ in range(ROUNDS):
        folded = optimizer.fold_constants_ir(
            model, onnx_shape_inference=True, input_size_limit=FOLD_INPUT, output_size_limit=FOLD_OUTPUT
        )
        steps = (folded, rewriter.RewritePass(RULES)(model), tidy(model))
        if not any(step.modified for step in steps):
            break
    ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
