"""`mhfl policy`: check a policy file, or show what it says."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from mhfl_mq.cli.options import Subcommands, json_option, policy_file
from mhfl_mq.cli.output import print_json, print_table, say
from mhfl_mq.cli.policies import installed, read_installed_policy
from mhfl_mq.cli.policy_apply import apply_command
from mhfl_mq.cli.policy_diff import diff_command
from mhfl_mq.cli.policy_explain import explain_command
from mhfl_mq.cli.policy_simulate import simulate_command
from mhfl_mq.cli.policy_test import test_command
from mhfl_mq.cli.signing import sign_command, verify_command
from mhfl_mq.errors import ConfigError, PolicyError
from mhfl_mq.policy import Communication, Kpi, Policy, Rule, Schedule, Window, ways
from mhfl_mq.policy.findings import Finding
from mhfl_mq.policy.kpi import METRICS
from mhfl_mq.policy.load import check_policy
from mhfl_mq.policy.quantities import show_bytes, show_duration
from mhfl_mq.policy.schema import json_schema
from mhfl_mq.run.rules import choice_of

__all__ = ["command"]


@click.group(cls=Subcommands)
def command() -> None:
    """Check a policy file, show what it says, sign it."""


command.add_command(apply_command)
command.add_command(diff_command)
command.add_command(explain_command)
command.add_command(simulate_command)
command.add_command(simulate_command)
command.add_command(test_command)
command.add_command(sign_command)
command.add_command(verify_command)


@command.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["text", "json", "github"]), default="text", show_default=True)
@click.option("--json", "form", flag_value="json", help="As --format json.")
def check(files: tuple[Path, ...], form: str) -> int:
    """Say everything that is wrong with policies, at once, with place and hint.

    FILE is a file, or the name of a policy that ships (`mhfl init --list`).
    Exit code 0 when all are right, 4 otherwise. JSON is a list of file, line, column, code, message, hint.
    """
    known = installed()
    findings = {file: check_policy(policy_file(file), known) for file in files}
    everything = [one for found in findings.values() for one in found]
    if form == "json":
        print_json([one.as_json() for one in everything])
    elif form == "github":
        for one in everything:
            click.echo(_github(one))
    else:
        _show_findings(findings)
    return PolicyError.exit_code if everything else 0


def _show_findings(findings: dict[Path, list[Finding]]) -> None:
    for file, found in findings.items():
        for one in found:
            click.echo(one.render())
        if not found:
            click.echo(f"{file}: ok")
    wrong = sum(map(len, findings.values()))
    if wrong:
        say(
            f"{wrong} finding{'s' if wrong > 1 else ''} in {sum(map(bool, findings.values()))} of {len(findings)} files"
        )


def _github(finding: Finding) -> str:
    """A workflow command of GitHub Actions: shown at the line of a pull request."""
    place = (
        f"file={_escaped(finding.file)},line={max(finding.line, 1)},col={max(finding.column, 1)},title={finding.code}"
    )
    hint = f" ({finding.hint})" if finding.hint else ""
    return f"::error {place}::{_escaped(finding.message + hint, more=False)}"


def _escaped(text: str, *, more: bool = True) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if more else text


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show what a policy says when defaults are filled in, with its digest.

    FILE is a file, or the name of a policy that ships.
    """
    policy = read_installed_policy(policy_file(file))
    if as_json:
        print_json({**asdict(policy), "digest": policy.digest})
        return
    click.echo(f"{policy.name}: {policy.description}" if policy.description else policy.name)
    click.echo(f"digest {policy.digest}" + (f", revision {policy.revision}" if policy.revision else "") + "\n")
    print_table(
        "",
        ["tier", "width", "blocks", "step at most", "memory at most", "transfer at most", "asked"],
        [_tier_row(policy, index) for index in range(len(policy.tiers))],
    )
    click.echo()
    for name, value in _rules(policy):
        click.echo(f"{name:<14} {value}")


@command.command()
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file.")
def schema(out: Path | None) -> None:
    """Print the JSON Schema of policy files, for editors.

    It has the names of the algorithms and stages that are installed here. An editor with yaml-language-server (the
    YAML extension of VS Code, Neovim, Emacs and others) completes keys by it, shows what they mean, and marks errors
    where `mhfl policy check` finds them, in a file that begins with the line

    \b
      # yaml-language-server: $schema=./policy.schema.json
    """
    text = json.dumps(json_schema(installed()), indent=2, ensure_ascii=False)
    if out is None:
        click.echo(text)
        return
    try:
        out.write_text(text + "\n", "utf-8")
    except OSError as error:
        remedy = "name a file in a folder that exists and may be written"
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(out), remedy=remedy) from None
    say(f"wrote {out}; begin a policy with  # yaml-language-server: $schema={out}")


def _tier_row(policy: Policy, index: int) -> Sequence[str | float | None]:
    tier = policy.tiers[index]
    budget = tier.budget
    return [
        tier.name,
        tier.width,
        str(tier.depth) if tier.depth else "all",
        None if budget.step_s is None else show_duration(budget.step_s),
        None if budget.memory_bytes is None else show_bytes(budget.memory_bytes),
        None if budget.transfer_s is None else show_duration(budget.transfer_s),
        "each round" if tier.every == 1 else f"every {tier.every} rounds",
    ]


def _rules(policy: Policy) -> list[tuple[str, str]]:
    part, limits, algorithm = policy.participation, policy.limits, policy.algorithm
    choice = choice_of(policy)
    options = ", ".join(f"{name} {value:g}" for name, value in sorted(algorithm.options.items()))
    cohort = (
        "everyone who is there" if part.cohort is None else f"{part.cohort} devices, x{part.over_provision:g} invited"
    )
    end = "no end" if policy.schedule.max_rounds is None else f"at most {policy.schedule.max_rounds} rounds"
    drop = policy.gate.max_drop
    rate = limits.broadcast_bytes_s
    pace = "as fast as the broker takes it" if rate is None else f"at most {show_bytes(rate)} per second"
    return [
        ("algorithm", f"{algorithm.name}, {algorithm.weighting or 'its own'} weights, {options}"),
        *([] if choice is None else [("", f"{choice.algorithm}: {choice.why}")]),
        ("cohort", cohort),
        *_rule_rows("only if", part.require),
        *_rule_rows("never if", part.forbid),
        *_limit_rows(policy),
        ("quorum", f"{part.quorum.min} updates and {part.quorum.fraction:.0%} of the cohort"),
        ("deadline", show_duration(part.deadline_s)),
        ("schedule", f"{_frequency(policy.schedule)}, {end}"),
        *_windows("only in", policy.schedule.windows, policy.schedule.timezone),
        *_windows("never in", policy.schedule.blackouts, policy.schedule.timezone),
        ("gate", "must be finite" if drop is None else f"must be finite and at most {drop:g} worse than the head"),
        ("communication", _communication(policy.communication)),
        *([("registry", f"{len(policy.devices)} ids or patterns with tags")] if policy.devices else []),
        *([("key figures", ", ".join(map(_figure, policy.kpi)))] if policy.kpi else []),
        ("stages", ", ".join(stage.name for stage in policy.stages) or "none"),
        (
            "limits",
            f"updates of {show_bytes(limits.update_bytes)}, {limits.devices} devices, "
            f"{limits.concurrent_uploads} uploads at once, chunks of {show_bytes(limits.chunk_bytes)}, "
            f"broadcast {pace}",
        ),
    ]


def _figure(kpi: Kpi) -> str:
    window = "" if kpi.window_s is None else f" over {show_duration(kpi.window_s)}"
    return f"{kpi.metric} {kpi.operator} {METRICS[kpi.metric].show(kpi.target)}{window}"


def _frequency(schedule: Schedule) -> str:
    """How often rounds begin, in a few words."""
    jitter = f", up to {show_duration(schedule.jitter_s)} later" if schedule.jitter_s else ""
    if schedule.cron:
        return f"at '{schedule.cron}' {schedule.timezone}, or within {show_duration(schedule.within_s)} of it{jitter}"
    pause = show_duration(schedule.interval_s) if schedule.interval_s else "no pause"
    return f"{pause} between rounds{jitter}"


def _windows(word: str, windows: Sequence[Window], zone: str) -> list[tuple[str, str]]:
    shown = [
        f"{word} {window.name or 'the time'}: {show_duration(window.lasts_s)} from '{window.cron}' {zone} on"
        for window in windows
    ]
    return [("", line) for line in shown]


def _rule_rows(word: str, rules: Sequence[Rule]) -> list[tuple[str, str]]:
    return [("", f"{word} {rule.name}: {', '.join(map(str, rule.conditions))}") for rule in rules]


def _limit_rows(policy: Policy) -> list[tuple[str, str]]:
    """The limits of each device, where there are any."""
    part, limits = policy.participation, policy.schedule.per_device
    shown = []
    if limits.min_interval_s:
        shown.append(f"a turn every {show_duration(limits.min_interval_s)} at most")
    if limits.upload_bytes is not None:
        shown.append(f"{show_bytes(limits.upload_bytes)} up a day")
    if limits.training_s is not None:
        shown.append(f"{show_duration(limits.training_s)} of training a day")
    if limits.quiet_on_battery:
        shown.append("not on its battery")
    if part.largest_share < 1:
        shown.append(f"{part.largest_share:.0%} of the rounds")
    if part.cooldown_s:
        shown.append(f"{show_duration(part.cooldown_s)} of rest after {part.failures} turns without an update")
    return [("each device", ", ".join(shown))] if shown else []


def _communication(rules: Communication) -> str:
    """How updates travel, in one line."""
    best, *less = ways(rules)
    if not rules.adaptive:
        return str(best)
    return f"{best}; less where that takes a link over {show_duration(rules.transfer_s)}, down to {[best, *less][-1]}"
