"""Each launch of `cuda_kernels` against plain torch in higher precision, on random numbers of real shapes."""

from __future__ import annotations

import pytest
import torch

from pipeline.engine import cuda_plain as plain
from pipeline.engine import draws

FAR = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.fixture(params=["float32", "bfloat16", "float16"])
def kind(request: pytest.FixtureRequest, device: str) -> torch.dtype:
    if request.param == {"cpu": "bfloat16", "cuda": "float16"}[device]:
        pytest.skip("Triton's interpreter multiplies no bfloat16; nobody runs float16 on a GPU that has it")
    return getattr(torch, request.param)


@pytest.fixture
def kernels(device: str):
    return pytest.importorskip("pipeline.engine.cuda_kernels", reason="needs triton")


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    far = FAR[found.dtype]
    gap = (found.double() - wanted.double()).norm() / wanted.double().norm()
    assert gap < far, f"{gap:.3g} of its norm off"


def some(device: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=device, dtype=torch.float64)


def column(numbers: torch.Tensor) -> torch.Tensor:
    """The same numbers as one column of two: they do not follow one another in memory."""
    return torch.stack([torch.zeros_like(numbers), numbers], 1)[:, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 896, 1536])
def test_norm_and_gate(width: int, kind: torch.dtype, device: str, kernels):
    rows, more, weight = (some(device, *shape).to(kind) for shape in ((33, width), (33, width), (width,)))
    added = rows.clone()
    found = kernels.add_norm(added, more, weight, 1e-6)
    near(added, rows.double() + more.double())
    near(found, plain.add_norm(added.double(), None, weight.double(), 1e-6))
    near(
        kernels.add_norm(rows.clone(), None, weight, 1e-6),
        plain.add_norm(rows.double(), None, weight.double(), 1e-6),
    )
    both = some(device, 33, 2 * 4864).to(kind)
    near(kernels.gate(both), plain.gate(both.double()))


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "shared", "size"), [(12, 2, 128), (14, 2, 64), (9, 3, 64), (4, 4, 16)])
@pytest.mark.parametrize("normed", [False, True])
def test_heads_are_turned_and_put_into_their_columns(
    heads: int, shared: int, size: int, normed: bool, kind: torch.dtype, device: str, kernels
):
    num, new, columns = 5, 3, 40
    found = some(device, num * new, (heads + 2 * shared) * size).to(kind)
    positions = torch.tensor([[i, i + 1, i + 2] for i in (0, 3, 9, 36, 37)], device=device).reshape(-1)
    angle = torch.arange(columns, device=device)[:, None] / 10 ** torch.linspace(
        0, 3, size // 2, device=device
    )
    turns = tuple(torch.cat([part, part], -1).to(kind) for part in (angle.cos(), angle.sin()))
    norms = (some(device, size).to(kind), some(device, size).to(kind)) if normed else None
    double = tuple(part.double() for part in turns), tuple(part.double() for part in norms) if norms else None
    held = [torch.zeros(num, shared, columns, size, device=device, dtype=kind) for _ in range(2)]
    wanted = [part.double() for part in held]
    queries = kernels.turn(found, column(positions), turns, norms, *held, new, heads, 1e-6)
    near(queries, plain.turn(found.double(), positions, *double, *wanted, new, heads, 1e-6))
    for mine, theirs in zip(held, wanted, strict=True):
        near(mine, theirs)
        assert torch.equal(mine == 0, theirs == 0), "a column was written that is not a token's"


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "shared", "size"), [(12, 2, 128), (14, 2, 64), (9, 3, 64), (4, 4, 16)])
@pytest.mark.parametrize("columns", [64, 512, 2048])
def test_attention_sees_a_rows_own_columns(
    heads: int, shared: int, size: int, columns: int, kind: torch.dtype, device: str, kernels,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    num = 6 if device == "cpu" else 64
    queries = some(device, num, heads, size).to(kind)
    keys, values = (some(device, num + 3, shared, columns, size).to(kind) for _ in range(2))
    positions = torch.randint(0, columns, (num,), device=device)
    positions[:4] = torch.tensor(
        [0, columns - 1, min(127, columns - 1), min(128, columns - 1)], device=device
    )
    wanted = plain.attend(queries.double(), keys.double(), values.double(), positions, size**-0.5)
    for held in (keys, values):  # what stands behind a row is never looked at
        for row, position in enumerate(positions.tolist()):
            held[row, :, position + 1 :] = float("nan")
    near(kernels.attend(queries, keys, values, column(positions), size**-0.5), wanted)
    if device == "cuda":  # what is asked for ahead changes nothing; an interpreter cannot ask
        monkeypatch.setattr(kernels.ATTEND, "columns_ahead", True)
        monkeypatch.setattr(kernels.ATTEND, "ahead", 64)
        soon = some(device, 40, 128).to(kind)
        near(kernels.attend(queries, keys, values, positions, size**-0.5, following=soon), wanted)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [300, 151936])
def test_tokens_are_drawn_by_inverse_cdf(size: int, kind: torch.dtype, device: str, kernels):
    num = 12 if device == "cpu" else 256
    logits = (3 * some(device, num, size)).to(kind)
    temperature = torch.rand(num, device=device) * 2 + 0.3
    uniforms = torch.rand(num, 16, device=device)
    steps = torch.randint(0, 16, (num,), device=device)
    greedy = (torch.arange(num, device=device) % 3 == 0).long()
    tokens, logprobs = kernels.choose(logits, temperature, uniforms, steps, greedy)
    full = logits.double()
    best = full.amax(-1)
    lines = torch.arange(num, device=device)
    assert bool((full[lines, tokens] == best)[greedy == 1].all())
    weight = ((full - best[:, None]) / temperature[:, None].double()).exp()
    cdf = weight.cumsum(-1) / weight.sum(-1, keepdim=True)
    uniform = uniforms[lines, steps].double()
    above = cdf[lines, tokens] >= uniform - 2e-6
    below = cdf[lines, tokens] - weight[lines, tokens] / weight.sum(-1) <= uniform + 2e-6
    assert bool((above & below)[greedy == 0].all())
    assert torch.allclose(logprobs.double(), full.log_softmax(-1)[lines, tokens], atol=1e-4)
    low, high = size // 3, size // 3 + 40  # all else cut away
    logits[:, :low], logits[:, high:] = -torch.inf, -torch.inf
    for end in (0.0, 1 - 2.0**-24):
        drawn, _ = kernels.choose(
            logits, temperature, torch.full_like(uniforms, end), steps, torch.zeros_like(greedy)
        )
        assert bool(((drawn >= low) & (drawn < high)).all())


def test_plain_choice_is_that_of_the_cpu_batch():
    logits, uniforms = torch.randn(20, 60), torch.rand(20, 16)
    steps, greedy = torch.arange(20) % 16, torch.zeros(20, dtype=torch.int64)
    tokens, logprobs = plain.choose(logits, torch.ones(20), uniforms, steps, greedy)
    weight, total = draws.weights(logits)
    assert torch.equal(tokens, draws.pick(weight, uniforms[torch.arange(20), steps]))
    assert torch.equal(logprobs, logits[torch.arange(20), tokens] - total)


@pytest.mark.gpu
@pytest.mark.parametrize("cut", [{}, {"columns": 16, "step": 32, "parts": 2, "stages": 3}])
@pytest.mark.parametrize("num", [1, 5, 24, 64])
@pytest.mark.parametrize(
    ("heads", "shared", "size", "width", "inner"), [(12, 2, 128, 1536, 8960), (14, 2, 64, 896, 4864), (4, 4, 32, 128, 192)]
)  # fmt: skip
def test_products_do_what_stands_between_them(
    heads: int, shared: int, size: int, width: int, inner: int, num: int, cut: dict[str, int],
    kind: torch.dtype, device: str, kernels, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """A layer of a new token: against the plain launches in double precision, each from what the last gave."""
    from pipeline.engine import cuda_products
    from pipeline.engine.cpu_forward import _Product

    if device == "cpu" and num * width > 6000:
        pytest.skip("minutes in Triton's interpreter")
    if device == "cuda" and kind == torch.float32:
        pytest.skip("in float32 the plain launches run: see cuda_forward._products")
    columns, far = 200, 3 * FAR[kind]
    dims = {
        "turned": ((heads + 2 * shared) * size, width),
        "gated": (2 * inner, width),
        "down": (width, inner),
    }
    if cut:
        tiling = cuda_products.Tiling(**cut)
        tuned = {(name.replace("down", "added"), *shape): tiling for name, shape in dims.items()}
        monkeypatch.setattr(cuda_products, "TUNED", tuned)
    asked = {"turned": size // 2, "gated": 0, "down": 0}
    for name, shape in {**dims, "out": (width, heads * size)}.items():
        kind_of = name if name in ("turned", "gated") else "added"
        if cuda_products.tiling_of(kind_of, *shape, asked.get(name, 0)) is None:
            pytest.skip(f"{name} {shape} has no cut: torch's products run, see cuda_products.fits")
    products = cuda_products.Products(torch.device(device), pdl=device == "cuda")

    def weights(*shape: int, bias: bool = False) -> _Product:
        full = some(device, *shape) / shape[1] ** 0.5
        return _Product(full.to(kind), some(device, shape[0]).to(kind) if bias else None)

    def double(product: _Product, rows: torch.Tensor) -> torch.Tensor:
        more = 0 if product.bias is None else product.bias.double()
        return rows.double() @ product.weight.double().T + more

    def check(found: torch.Tensor, wanted: torch.Tensor) -> None:
        gap = (found.double() - wanted.double()).norm() / wanted.double().norm()
        assert gap < far, f"{gap:.3g} of its norm off"

    asks, out = weights(*dims["turned"], bias=True), weights(width, heads * size)
    gates, down = weights(*dims["gated"]), weights(*dims["down"])
    words, learnt, later = some(device, 40, width).to(kind), *(some(device, width).to(kind) for _ in range(2))
    ids = column(torch.randint(0, 40, (num,), device=device))
    positions = column(torch.randint(0, columns, (num,), device=device))
    angle = torch.rand(columns, size // 2, device=device, dtype=torch.float64)
    turns = tuple(torch.cat([part, part], -1).to(kind) for part in (angle.cos(), angle.sin()))
    keys, values = (some(device, num + 2, shared, columns, size).to(kind) for _ in range(2))
    wide = keys.double(), values.double()
    for _ in range(3):  # parts of sums arrive in another order each time
        stream, given = products.begin(ids, words, learnt)
        assert torch.equal(stream, words[ids])
        queries = products.turned(given, asks, positions, turns, keys, values, heads, 1e-6)
        normed = plain.add_norm(words[ids].double(), None, learnt.double(), 1e-6)
        turned = tuple(part.double() for part in turns)
        check(queries, plain.turn(double(asks, normed), positions, turned, None, *wide, 1, heads, 1e-6))
        lines = torch.arange(num, device=device)
        for held, wanted in zip((keys, values), wide, strict=True):
            check(held[lines, :, positions], wanted[lines, :, positions])  # the new columns alone
            check(held, wanted)
        seen = kernels.attend(queries, keys, values, positions, size**-0.5, pdl=device == "cuda")
        check(seen, plain.attend(queries.double(), *wide, positions, size**-0.5))
        before = stream.double()
        given = products.added(seen, out, stream, later)
        check(stream, before + double(out, seen))
        check(given.rows, stream.double() * later.double())
        check(given.squares.sum(0), stream.double().square().sum(1))
        opened = products.gated(given, gates, 1e-6)
        normed = plain.add_norm(stream.double(), None, later.double(), 1e-6)
        check(opened, plain.gate(double(gates, normed)))
        before = stream.double()
        given = products.added(opened, down, stream, learnt)
        check(given.rows, stream.double() * learnt.double())
        check(given.squares.sum(0), stream.double().square().sum(1))
        check(stream, before + double(down, opened))
    assert int(kernels.counters_of(torch.device(device)).abs().sum()) == 0


def test_a_cut_comes_out_even_or_is_none():
    cuda_products = pytest.importorskip("pipeline.engine.cuda_products", reason="needs triton")
    found = 0
    for kind in cuda_products.KINDS:
        for columns in (64, 384, 896, 1152, 1536, 2048, 9728, 17920):
            for width in (40, 128, 192, 896, 1536, 4864, 8960):
                for half in (8, 16, 32, 64) if kind == "turned" else (0,):
                    tiling = cuda_products.tiling_of(kind, columns, width, half)
                    if tiling is not None:
                        found += 1
                        assert width % (tiling.parts * tiling.step) == 0
                        assert (columns if kind == "added" else columns // 2) % tiling.columns == 0
                        assert not half or half % tiling.columns == 0
    assert found > 100
    assert cuda_products.tiling_of("added", 896, 4864) is not None  # of 0.5B: once cut into uneven parts
    assert cuda_products.tiling_of("added", 40, 40) is None


def test_products_with_what_stands_between_run_only_when_asked_for(monkeypatch: pytest.MonkeyPatch):
    from pipeline.engine import cuda_forward

    cuda_products = pytest.importorskip("pipeline.engine.cuda_products", reason="needs triton")

    class Body:
        kernels, last, layers, size = object(), torch.zeros(1, dtype=torch.bfloat16), (object(),), 64

    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(cuda_products, "counters_of", lambda device: None)
    monkeypatch.setattr(cuda_products, "fits", lambda layer, size: True)
    monkeypatch.delenv(cuda_forward.PRODUCTS, raising=False)
    assert cuda_forward._products(Body, gpu) is None
    monkeypatch.setenv(cuda_forward.PRODUCTS, "1")
    assert cuda_forward._products(Body, gpu) is not None
    monkeypatch.setattr(cuda_products, "fits", lambda layer, size: False)
    with pytest.warns(UserWarning, match="RATCHET_CUDA_PRODUCTS=1 changes nothing here"):
        assert cuda_forward._products(Body, gpu) is None


@pytest.mark.gpu
def test_what_a_step_leaves_is_that_of_plain_torch(device: str, kernels):
    from pipeline.engine.cuda_batch import COUNT, FLAGS, LIMIT, LINES, MASK, MOST, STATE, TOKENS

    num, states, tokens = 137, 9, 60
    state = torch.randint(0, 5, (TOKENS + MOST + 1, num + 3), device=device)
    state[FLAGS] = (torch.rand(num + 3, device=device) < 0.3).long() * 2
    state[MASK] = torch.randint(0, 8, (num + 3,), device=device)
    state[LIMIT] = state[COUNT] + torch.randint(1, 3, (num + 3,), device=device)
    state[STATE] = torch.randint(0, 4, (num + 3,), device=device)
    following = torch.randint(0, 4, (tokens, states), dtype=torch.int32, device=device)
    hits = torch.randint(0, 8, (tokens, states), device=device)
    hits = (hits * (torch.rand(tokens, states, device=device) < 0.3)).to(torch.uint8)
    drawn, logprobs = torch.randint(0, tokens, (num,), device=device), torch.randn(num, device=device)
    found, wanted = ((state.clone(), torch.zeros(MOST + 1, num + 3, device=device)) for _ in range(2))
    for one, room in ((kernels, found), (plain, wanted)):
        one.follow(room[0][:, :num], drawn, logprobs, room[1][:, :num], following, hits, LINES, 4)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])
    assert not torch.equal(found[0], state)
