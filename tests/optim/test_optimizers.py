"""Groups, optimizers and schedules against independent restatements."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch import nn

from lightning_ssl.models import build_backbone
from lightning_ssl.optim import (
    Optimizer,
    Schedule,
    build_optimizer,
    build_scheduler,
    multiplier,
    parameter_groups,
)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def param(values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def lars_formula(w, grads, lrs, decay, momentum, nesterov, lr_in_momentum):
    """Spec of PAWS 4.2 by hand, in Python floats over a flat list."""
    w, v = list(w), [0.0] * len(w)
    for g, lr in zip(grads, lrs, strict=True):
        nw, ng = math.hypot(*w), math.hypot(*g)
        if nw and ng:
            a = 0.001 * nw / (ng + decay * nw + 1e-8)
            g = [a * (gi + decay * wi) for gi, wi in zip(g, w, strict=True)]
        d = [(-lr if lr_in_momentum else -1.0) * gi for gi in g]
        v = [momentum * vi + di for vi, di in zip(v, d, strict=True)]
        move = [di + momentum * vi for di, vi in zip(d, v, strict=True)] if nesterov else v
        w = [wi + (1.0 if lr_in_momentum else lr) * mi for wi, mi in zip(w, move, strict=True)]
    return w


class TestGroups:
    def test_kernels_and_the_rest_in_order(self):
        module = net()
        kernels, rest = parameter_groups(module)
        assert [id(p) for p in kernels["params"]] == [id(module[0].weight), id(module[3].weight)]
        expected = [module[0].bias, module[1].weight, module[1].bias, module[3].bias]
        assert [id(p) for p in rest["params"]] == [id(p) for p in expected]
        assert "weight_decay" not in kernels
        assert rest["weight_decay"] == 0

    def test_frozen_is_left_out_and_no_group_is_empty(self):
        module = net()
        module[0].requires_grad_(False)
        module[3].requires_grad_(False)
        (only,) = parameter_groups(module)
        assert len(only["params"]) == 2
        module.requires_grad_(False)
        assert parameter_groups(module) == []

    def test_norms_of_shortcuts_decay_as_in_suncet_if_asked(self):
        module = build_backbone("resnet18")
        kernels, _ = parameter_groups(module, shortcut_norms=True)
        by_name = {
            name
            for name, p in module.named_parameters()
            if "bias" not in name and "bn" not in name  # src/suncet_train.py
        }
        names = {id(p): name for name, p in module.named_parameters()}
        assert {names[id(p)] for p in kernels["params"]} == by_name
        norms = [name for name in by_name if name.endswith("downsample.1.weight")]
        assert len(norms) == 3
        plain = {names[id(p)] for p in parameter_groups(module)[0]["params"]}
        assert plain == by_name - set(norms)

    def test_lars_adapts_the_norms_of_shortcuts_if_asked(self):
        module, moved = nn.Module(), {}
        module.downsample = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
        weight = module.downsample[1].weight
        for asked in (False, True):
            nn.init.constant_(weight, 2.0)
            config = Optimizer("lars", 0.7, 0.1, 0.9, False, shortcut_norms=asked)
            optimizer = build_optimizer(parameter_groups(module, None, asked), config)
            weight.grad = torch.tensor([0.3, 0.4])
            optimizer.step()
            moved[asked] = weight.tolist()
        assert moved[False] == pytest.approx([2 - 0.7 * 0.3, 2 - 0.7 * 0.4])
        expected = lars_formula([2.0, 2.0], [[0.3, 0.4]], [0.7], 0.1, 0.9, False, False)
        assert moved[True] == pytest.approx(expected, rel=1e-6)

    def test_shared_parameter_counts_once(self):
        module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        module[1].weight = module[0].weight
        assert [len(g["params"]) for g in parameter_groups(module)] == [1, 2]

    def test_nothing_to_train(self):
        with pytest.raises(ValueError, match="`groups` must hold"):
            build_optimizer([], Optimizer())


class TestOptimizer:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
    )
    def test_kind_and_decay(self, name, kind):
        config = Optimizer(name, lr=0.5, weight_decay=0.25)
        optimizer = build_optimizer(parameter_groups(net()), config)
        assert type(optimizer) is kind
        assert [g["weight_decay"] for g in optimizer.param_groups] == [0.25, 0.0]
        assert all(g["lr"] == 0.5 for g in optimizer.param_groups)

    def test_sgd_follows_the_formula(self):
        w, b = param([[1.0, 2.0]]), param([3.0])
        groups = parameter_groups(nn.ParameterList([w, b]))
        optimizer = build_optimizer(groups, Optimizer(lr=0.1, weight_decay=0.5))
        expected, velocity = [1.0, 2.0, 3.0], [0.0] * 3
        for _ in range(3):
            w.grad, b.grad = torch.ones_like(w), torch.ones_like(b)
            optimizer.step()
            for i, decay in enumerate((0.5, 0.5, 0.0)):
                g = 1 + decay * expected[i]
                velocity[i] = 0.9 * velocity[i] + g
                expected[i] -= 0.1 * (g + 0.9 * velocity[i])
        assert [*w.flatten().tolist(), *b.tolist()] == pytest.approx(expected, rel=1e-12)

    def test_adamw_decays_as_mixmatch(self):
        w = param([[2.0]])
        optimizer = build_optimizer([{"params": [w]}], Optimizer("adamw", 0.002, 0.02))
        w.grad = torch.zeros_like(w)
        optimizer.step()
        assert w.item() == pytest.approx(2.0 * (1 - 4e-5), rel=1e-12)

    @pytest.mark.parametrize("nesterov", [False, True])
    @pytest.mark.parametrize("decay", [0.0, 0.01])
    @pytest.mark.parametrize("lr_in_momentum", [False, True])
    def test_lars_follows_the_formula(self, nesterov, decay, lr_in_momentum):
        lrs = [0.7] * 4 if nesterov else [0.7, 0.2, 0.9, 0.1]
        config = Optimizer("lars", 0.7, decay, 0.9, nesterov, lr_in_momentum=lr_in_momentum)
        w, bias = param([[1.0, -2.0], [0.5, 3.0]]), param([1.0])
        optimizer = build_optimizer(parameter_groups(nn.ParameterList([w, bias])), config)
        grads = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(1)).double()
        start = w.flatten().tolist()
        for grad, lr in zip(grads, lrs, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr
            w.grad, bias.grad = grad.clone(), torch.ones_like(bias)
            optimizer.step()
        flat = [g.flatten().tolist() for g in grads]
        expected = lars_formula(start, flat, lrs, decay, 0.9, nesterov, lr_in_momentum)
        assert w.flatten().tolist() == pytest.approx(expected, rel=1e-9)
        # Not adapted: an adapted bias would have moved a thousandth of this.
        assert abs(bias.item() - 1) > 0.5

    def test_both_lars_agree_at_a_constant_rate(self):
        results = []
        for lr_in_momentum in (False, True):
            module = net().double()
            config = Optimizer("lars", 2.0, 0.1, nesterov=False, lr_in_momentum=lr_in_momentum)
            optimizer = build_optimizer(parameter_groups(module), config)
            for step in range(5):
                optimizer.zero_grad()
                x = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(step))
                module(x.double()).square().sum().backward()
                optimizer.step()
            results.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
        torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("lr_in_momentum", [False, True])
    def test_lars_check_values_of_one_step(self, lr_in_momentum):
        config = Optimizer("lars", 2.0, 0.1, nesterov=False, lr_in_momentum=lr_in_momentum)
        w, zero = param([[3.0, 4.0]]), param([[0.0, 0.0]])
        optimizer = build_optimizer([{"params": [w, zero]}], config)
        w.grad, zero.grad = param([[1.0, 0.0]]).detach(), param([[1.0, 0.0]]).detach()
        optimizer.step()
        assert w[0].tolist() == pytest.approx([2.9913333, 3.9973333], abs=1e-7)
        assert zero[0].tolist() == pytest.approx([-2.0, 0.0])

    def test_lars_check_values_of_two_steps(self):
        config = Optimizer("lars", 1.0, 0.01, nesterov=False, lr_in_momentum=True)
        w, bias = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(1))
        optimizer = build_optimizer(parameter_groups(nn.ParameterList([w, bias])), config)
        for lr in (1.0, 0.5):
            for group in optimizer.param_groups:
                group["lr"] = lr
            w.grad, bias.grad = torch.full_like(w, 0.5), torch.full_like(bias, 0.5)
            optimizer.step()
        assert w[0, 0].item() == pytest.approx(0.997600496, abs=1e-7)
        assert optimizer.state[w]["momentum_buffer"][0, 0].item() == pytest.approx(-0.0013995)
        assert bias.item() == pytest.approx(-0.2)
        assert optimizer.state[bias]["momentum_buffer"].item() == pytest.approx(-0.7)

    def test_rate_in_momentum_leaves_a_weight_without_gradient_alone(self):
        config = Optimizer("lars", 1.0, 0.5, nesterov=False, lr_in_momentum=True)
        w = param([[3.0]])
        optimizer = build_optimizer([{"params": [w]}], config)
        w.grad = torch.zeros_like(w)
        assert optimizer.step(lambda: 4.0) == 4.0
        assert w.item() == 3.0


class TestMultiplier:
    @pytest.mark.parametrize(
        ("step", "lr"),
        [(0, 0.8), (1949, 3.198769), (1950, 3.2), (60000, 1.593293), (116999, 0.032)],
    )
    def test_check_values_of_paws_on_cifar(self, step, lr):
        schedule = Schedule("cosine", warmup=1950, warmup_start=0.8 / 3.2, final=0.032 / 3.2)
        assert 3.2 * multiplier(step, 117000, schedule) == pytest.approx(lr, abs=1e-6)

    def test_fixmatch(self):
        total = 2**20
        for step in (0, 1, 1000, total // 2, total):
            expected = math.cos(7 * math.pi * step / (16 * total))
            assert multiplier(step, total, Schedule()) == pytest.approx(expected, abs=1e-15)
        assert multiplier(total + 5, total, Schedule()) == multiplier(total, total, Schedule())
        warm = Schedule(warmup=10)
        assert multiplier(10, 110, warm) == 1.0
        assert multiplier(60, 110, warm) == pytest.approx(math.cos(7 * math.pi / 32))

    def test_adamatch(self):
        schedule = Schedule("cosine_part", final=0.25)
        for step, expected in ((0, 1), (50, math.sqrt(0.625)), (100, 0.25), (150, 0.25)):
            # cos(x / 2) = sqrt((1 + cos x) / 2)
            assert multiplier(step, 100, schedule) == pytest.approx(expected, abs=1e-15)

    def test_s4l(self):
        schedule = Schedule("step", warmup=2500, milestones=(70000, 80000, 90000))
        table = {0: 0, 1250: 0.5, 2500: 1, 70000: 1, 70001: 0.1, 80001: 0.01, 99999: 0.001}
        for step, expected in table.items():
            assert multiplier(step, 100000, schedule) == pytest.approx(expected, abs=1e-15)

    def test_constant_and_a_run_shorter_than_its_warmup(self):
        assert multiplier(10**9, math.inf, Schedule("constant")) == 1
        short = Schedule("cosine", warmup=100)
        assert multiplier(3, 5, short) == pytest.approx(0.03)
        assert multiplier(100, 5, short) == 1


def run(optimizer, scheduler, params, first, last):
    """Train on fixed gradients, noting the rate and decays each update used."""
    params, seen = list(params), []
    for step in range(first, last):
        seen.append([(g["lr"], g["weight_decay"]) for g in optimizer.param_groups])
        for p in params:
            generator = torch.Generator().manual_seed(step)
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
        scheduler.step()
    return seen


def parts(name="sgd", schedule=None, end=None, total=20, **options):
    module = net()
    optimizer = build_optimizer(parameter_groups(module), Optimizer(name, lr=0.4, **options))
    schedule = schedule or Schedule("cosine", warmup=4, warmup_start=0.25, final=0.1)
    scheduler = build_scheduler(optimizer, schedule, total, end)
    return module, optimizer, scheduler


class TestScheduler:
    def test_rate_and_decay_at_every_update(self):
        module, optimizer, scheduler = parts(weight_decay=0.04, end=0.4)
        seen = run(optimizer, scheduler, module.parameters(), 0, 20)
        for step, (kernels, rest) in enumerate(seen):
            warm = 0.25 + 0.75 * step / 4
            cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 4) / 16)) / 2
            lr = 0.4 * (warm if step < 4 else cosine)
            decay = 0.4 - 0.36 * (1 + math.cos(math.pi * step / 20)) / 2
            assert kernels == pytest.approx((lr, decay), rel=1e-12)
            assert rest == (pytest.approx(lr, rel=1e-12), 0.0)

    def test_decay_can_start_at_zero(self):
        _, optimizer, scheduler = parts("adamw", weight_decay=0.0, end=0.1, total=1)
        optimizer.step()
        scheduler.step()
        assert [g["weight_decay"] for g in optimizer.param_groups] == [pytest.approx(0.1), 0.0]

    @pytest.mark.parametrize(
        "options",
        [
            {"name": "sgd", "end": 0.1},
            {"name": "adamw", "end": 0.1, "schedule": Schedule(warmup=3)},
            {"name": "lars", "weight_decay": 0.0},
            {"name": "lars", "lr_in_momentum": True, "end": 0.1},
            {"name": "sgd", "schedule": Schedule("step", milestones=(5, 9))},
        ],
    )
    def test_resume_is_exact(self, options, tmp_path):
        module, optimizer, scheduler = parts(**options)
        seen = run(optimizer, scheduler, module.parameters(), 0, 20)

        first, before, clock = parts(**options)
        head = run(before, clock, first.parameters(), 0, 7)
        state = [first.state_dict(), before.state_dict(), clock.state_dict()]
        torch.save(state, tmp_path / "state.pt")
        second, after, later = parts(**options)
        loaded = torch.load(tmp_path / "state.pt", weights_only=True)
        for part, content in zip((second, after, later), loaded, strict=True):
            part.load_state_dict(content)
        tail = run(after, later, second.parameters(), 7, 20)
        assert head + tail == seen
        for p, q in zip(module.parameters(), second.parameters(), strict=True):
            assert torch.equal(p, q)

    def test_state_is_plain(self):
        _, _, scheduler = parts(end=0.1)
        for value in scheduler.state_dict().values():
            values = value if isinstance(value, list) else [value]
            assert all(type(v) in (int, float) for v in values)

    @pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    @pytest.mark.parametrize("options", [{}, {"lr_in_momentum": True}])
    def test_copies_and_pickles(self, clone, options):
        name = "lars" if options else "sgd"
        module, optimizer, scheduler = parts(name, end=0.1, **options)
        run(optimizer, scheduler, module.parameters(), 0, 3)
        twin = clone(scheduler)
        assert twin.optimizer is not optimizer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the copy's optimizer has not been stepped
            twin.step()
        optimizer.step()
        scheduler.step()
        assert twin.get_last_lr() == scheduler.get_last_lr()

    def test_length_is_needed_only_by_what_depends_on_it(self):
        optimizer = build_optimizer(parameter_groups(net()), Optimizer())
        build_scheduler(optimizer, Schedule("constant", warmup=5), math.inf)
        for schedule, total, end in (
            (Schedule(), math.inf, None),
            (Schedule("constant"), math.inf, 0.1),
            (Schedule("cosine"), 0, None),
        ):
            with pytest.raises(ValueError, match="`total_steps` must be"):
                build_scheduler(optimizer, schedule, total, end)


class TestConfig:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", "rmsprop"),
            ("lr", -1.0),
            ("lr", math.nan),
            ("weight_decay", -1.0),
            ("momentum", 1.0),
            ("weight_decay_end", -0.1),
            ("lr_in_momentum", True),
        ],
    )
    def test_optimizer_errors(self, field, value):
        with pytest.raises(ValueError, match=rf"`optimizer\.{field}` must be .*, got"):
            Optimizer(**{field: value})

    def test_nesterov_needs_momentum(self):
        with pytest.raises(ValueError, match=r"`optimizer\.nesterov` must be false"):
            Optimizer(momentum=0.0)
        Optimizer("adamw", momentum=0.0)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", "linear"),
            ("warmup", -1),
            ("warmup_start", 2.0),
            ("final", -0.1),
            ("gamma", 0.0),
            ("milestones", (5, 3)),
        ],
    )
    def test_schedule_errors(self, field, value):
        with pytest.raises(ValueError, match=rf"`schedule\.{field}` must be .*, got"):
            Schedule(**{field: value})

    def test_step_needs_milestones(self):
        with pytest.raises(ValueError, match=r"`schedule\.milestones` must be .*, got \(\)"):
            Schedule("step")

    def test_flags_reach_the_dataclasses(self):
        from jsonargparse import ArgumentParser

        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--optimizer", type=Optimizer, default=Optimizer())
        parser.add_argument("--schedule", type=Schedule, default=Schedule())
        flags = ["--optimizer.lr=0.5", "--schedule.name=step", "--schedule.milestones=[3,5]"]
        build = getattr(parser, "instantiate", parser.instantiate_classes)  # renamed in 4.49
        config = build(parser.parse_args(flags))
        assert config.optimizer == Optimizer(lr=0.5)
        assert config.schedule == Schedule("step", milestones=(3, 5))

    def test_checkpoint_with_configs_opens_with_weights_only(self, tmp_path):
        content = {"hyper_parameters": [Optimizer("adamw"), Schedule("step", milestones=(2,))]}
        torch.save(content, tmp_path / "c.ckpt")
        assert torch.load(tmp_path / "c.ckpt", weights_only=True) == content
