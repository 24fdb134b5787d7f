"""What fused: every operator of a file is computed by one kernel, and the page shows which."""

import html
import re

import numpy as np
import pytest
from onnx import TensorProto, helper
from torch import nn

from course_utils import distill, quantize, runtimes
from course_utils.fusion import Fusion, Kernel, Operator, find_fusion
from course_utils.runtimes.export import LEVELS, export_onnx

EVERY = tuple(LEVELS)
NETWORKS = ("tiny_convnet", "tiny_resnet", "tiny_mlp", "student")


@pytest.fixture(scope="module")
def files(request, images):
    student = distill.load_students("students_fashion")["full_ds-cnn_w40_taught_seed0"].model
    found = {"student": export_onnx(student, np.zeros((2, 1, 28, 28), np.float32))}
    for name in NETWORKS[:3]:
        found[name] = export_onnx(request.getfixturevalue(name), images)
    return {name: graph.SerializeToString() for name, graph in found.items()}


def make_file(*nodes: tuple[str, list[str], str], is_named: bool = True) -> bytes:
    """Return a file of operators: kind, inputs, output; "x" comes in, "w" is a kernel, "y" out."""
    made = [
        helper.make_node(kind, inputs, [output], name=f"node_{output}" if is_named else "")
        for kind, inputs, output in nodes
    ]
    random = np.random.default_rng(0)
    kernel = helper.make_tensor("w", TensorProto.FLOAT, [4, 4, 3, 3], random.normal(size=144))
    ends = [helper.make_tensor_value_info(*end) for end in (
        ("x", TensorProto.FLOAT, ["n", 4, 6, 6]), ("y", TensorProto.FLOAT, None))]  # fmt: skip
    graph = helper.make_graph(made, "made", ends[:1], ends[1:], [kernel])
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()


@pytest.fixture(scope="module")
def found(files):
    return {name: find_fusion(content, EVERY, shown=99) for name, content in files.items()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("level", EVERY)
def test_every_operator_is_computed_once(found, name, level):
    kernels = found[name].levels[level]
    computed = sorted(number for kernel in kernels for number in kernel.operators)
    assert computed == list(range(len(found[name].operators)))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("level", EVERY)
def test_the_kernels_are_those_that_run(files, found, name, level):
    operators = runtimes.load(files[name], optimise=level).operators
    assert len(found[name].levels[level]) == sum(operators.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_as_it_is_has_a_kernel_for_each_operator(found, name):
    kernels = found[name].levels["none"]
    own = sorted(kernel.operators for kernel in kernels)  # branches may run in another order
    assert own == [(n,) for n in range(len(kernels))]
    assert len(found[name].levels["all"]) < len(kernels)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("level", EVERY)
def test_a_kernel_multiplies_by_one_operators_weights(found, name, level):
    operators = found[name].operators
    for kernel in found[name].levels[level]:
        assert sum(operators[number].has_weights for number in kernel.operators) <= 1


def test_a_relu_is_computed_by_the_convolution_before_it(found):
    fusion = found["student"]
    readers = [n for one in fusion.operators for n in one.inputs]
    pairs = [
        (operator.inputs[0], number)
        for number, operator in enumerate(fusion.operators)
        if operator.label == "Relu"
        and fusion.operators[operator.inputs[0]].has_weights
        and readers.count(operator.inputs[0]) == 1
    ]
    assert len(pairs) > 3
    for before, number in pairs:
        for level in ("extended", "all"):
            assert fusion.kernel_of(level, number) is fusion.kernel_of(level, before)
        assert fusion.kernel_of("basic", number) is not fusion.kernel_of("basic", before)


def test_skips_and_depthwise_layers_are_told(found):
    labels = [one.label for one in found["student"].operators]
    assert labels[:4] == ["Conv 5×5", "Relu", "Conv 3×3 depthwise", "Relu"]
    assert labels[5] == "Add, reads 1"


@pytest.mark.parametrize("shown", [1, 5, 999])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_cells_of_each_column_fill_the_rows_that_are_shown(files, name, shown):
    fusion = find_fusion(files[name], EVERY, shown=shown)
    rows = min(shown, len(fusion.operators))
    for level in EVERY:
        assert sum(reach for _, reach in fusion.cells(level)) == rows
    page = fusion._repr_html_()
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    reaches = [int(reach) for reach in re.findall(r"rowspan='(\d+)'", body)]
    assert sum(reaches) == rows * (1 + len(EVERY))
    text = repr(fusion).splitlines()
    assert len(text) == rows + 3  # head, totals and the note
    assert ("not shown" in text[-1]) is (shown < len(fusion.operators))
    assert text[-2].split()[1] == str(len(fusion.operators))
    assert all(html.escape(words) in page for words, _ in fusion.cells("all"))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"a picture", {}, "no ONNX file"),
        (
            None,
            {"levels": ["most"]},
            r"one of \['none', 'basic', 'extended', 'all'\], not at 'most'",
        ),
        (None, {"shown": 0}, "at least one operator"),
    ],
)
def test_what_cannot_be_shown_is_refused(files, content, options, message):
    with pytest.raises(ValueError, match=message):
        find_fusion(files["tiny_mlp"] if content is None else content, **options)


def test_a_quantized_file_is_refused(tiny_convnet, images):
    narrow = runtimes.build(quantize.quantize_weights(tiny_convnet, 8), images)
    with pytest.raises(ValueError, match=r"quantized.*in fp32"):
        find_fusion(narrow.artefact)


def test_the_levels_compute_the_same_and_bools_name_two_of_them(files, images):
    content = files["tiny_convnet"]
    logits = [runtimes.load(content, optimise=level)(images) for level in EVERY]
    for other in logits[1:]:
        assert other == pytest.approx(logits[0], rel=1e-3, abs=1e-4)
    for switch, level in ((True, "all"), (False, "none")):
        operators = [runtimes.load(content, optimise=one).operators for one in (switch, level)]
        assert operators[0] == operators[1]
    with pytest.raises(ValueError, match="not at 'everything'"):
        runtimes.load(content, optimise="everything")


def test_layers_that_are_no_modules_do_not_matter(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    fusion = find_fusion(export_onnx(model, images).SerializeToString(), EVERY)
    assert sum(one.has_weights for one in fusion.operators) == 1


CHAIN = (("Conv", ["x", "w"], "a"), ("Relu", ["a"], "b"), ("Relu", ["b"], "c"),
         ("Sigmoid", ["c"], "y"))  # fmt: skip


@pytest.mark.parametrize("is_named", [True, False])
def test_operators_without_names_are_told_apart(is_named):
    fusion = find_fusion(make_file(*CHAIN, is_named=is_named), EVERY)
    for level in ("none", "basic"):
        kernels = fusion.levels[level]
        assert [kernel.operators for kernel in kernels] == [(0,), (1,), (2,), (3,)]
    together = [kernel.operators for kernel in fusion.levels["extended"]]
    assert together == [(0, 1), (2,), (3,)]
    moved = [kernel.operators for kernel in fusion.levels["all"] if kernel.operators]
    assert sorted(n for own in moved for n in own) == [0, 1, 2, 3]
    assert (0, 1) in moved


def test_what_is_folded_or_left_out_belongs_to_the_kernel_that_needs_it():
    content = make_file(
        ("Neg", ["w"], "v"), ("Conv", ["x", "v"], "a"), ("Identity", ["a"], "b"),
        ("Relu", ["b"], "y"),
    )  # fmt: skip
    fusion = find_fusion(content, EVERY)
    assert [kernel.operators for kernel in fusion.levels["none"]] == [(0,), (1,), (2,), (3,)]
    assert [kernel.operators for kernel in fusion.levels["basic"]] == [(0, 1), (2, 3)]
    assert [kernel.operators for kernel in fusion.levels["extended"]] == [(0, 1, 2, 3)]


def test_a_relu_stays_alone_where_another_operator_reads_what_comes_before_it():
    content = make_file(
        ("Conv", ["x", "w"], "a"), ("Relu", ["a"], "b"), ("Add", ["a", "b"], "y")
    )  # fmt: skip
    fusion = find_fusion(content, EVERY)
    assert [one.label for one in fusion.operators] == ["Conv", "Relu", "Add, reads 0"]
    for level in EVERY:
        assert [own.operators for own in fusion.levels[level] if own.operators] == [
            (0,),
            (1,),
            (2,),
        ]


def test_what_no_kernel_computes_is_shown_as_a_dash():
    operators = [Operator("Relu", False, ()), Operator("Identity", False, (0,))]
    fusion = Fusion(operators, {"basic": [Kernel("Relu", (0,), 0)]}, shown=2)
    assert fusion.kernel_of("basic", 1) is None
    assert fusion.cells("basic") == [("Relu", 1), ("–", 1)]


def test_a_kernel_that_skips_a_row_is_named_again_and_what_was_put_in_is_told():
    operators = [
        Operator("Conv", True, ()),
        Operator("Relu", False, (0,)),
        Operator("Add", False, (0,)),
    ]
    kernels = [Kernel("Fused", (0, 2), 2), Kernel("ReorderOutput", (), 2), Kernel("Relu", (1,), 2)]
    fusion = Fusion(operators, {"all": kernels}, shown=2)
    assert fusion.cells("all") == [("Fused", 1), ("Relu", 1)]
    whole = Fusion(operators, {"all": kernels}, shown=3)
    assert whole.cells("all")[-1] == ("… with 0 + ReorderOutput", 1)


def test_words_of_a_file_cannot_break_the_page():
    operators = [Operator("<script>1 & 2", True, ())]
    page = Fusion(operators, {"all": [Kernel("<b>'x'", (0,), 0)]}, shown=1)._repr_html_()
    assert "<script" not in page
    assert "<b>'x'" not in page
    assert "&lt;script&gt;1 &amp; 2" in page
    assert "&lt;b&gt;" in page
