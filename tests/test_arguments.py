"""Wrong arguments: each ends in one sentence that names the key and the remedy, exit code 2, nothing written."""

import re

import pytest

from harness.command_line import flags_first
from tests.command import complaint, in_process, real

EXTERNAL = "optimizer=external optimizer._target_="
# Arguments, and what the sentence must say: the key or the group, and what to do about it.
WRONG = {
    # names
    "optimizer=adamm": "optimizer=adamm is not there: did you mean adamw",
    "model=gpt3": "model=gpt3 is not there: did you mean gpt2_",
    "schedule=foo": "schedule=foo is not there: choose from constant, cosine, linear, polynomial, wsd",
    "tracker=foo": "tracker=foo is not there: choose from none, wandb",
    "launcher=foo": "launcher=foo is not there: choose from .*serial",
    "experiment=foo": "experiment=foo is not there",
    "optimiser=adamw": "optimiser is no key of the config: did you mean optimizer",
    "step=10": "step is no key of the config: did you mean steps",
    "batch.token=3": r"batch\.token is no key of the config: did you mean batch\.tokens",
    "steps.foo=1": r"steps\.foo is no key of the config: did you mean steps",
    "model.layer=3": r"model\.layer is no key of the config: did you mean model\.layers",
    "optimizer.lrr=1": r"optimizer\.lrr is no key of optimizer: did you mean lr\?",
    "optimizer.params=1": r"optimizer\.params is no key of optimizer: choose from .*lr",
    "optimizer=sgd optimizer.betas=[.9,.95]": r"optimizer\.betas is no key of optimizer: choose from .*momentum",
    "optimizer.name=adamm": "optimizer 'adamm' is not registered: did you mean adamw",
    "schedule.decay=0.3": r"schedule\.decay is no key of schedule=cosine: it belongs to schedule=wsd",
    "data.files=a.txt": r"data\.files is no key of data=stdlib: it belongs to .*data=local",
    "tracker.mode=offline": r"tracker\.mode is no key of tracker=none: it belongs to tracker=wandb",
    "data.name=foo": "no recipe named foo: choose from c4, .*fineweb_edu",
    "+foo=1": "foo is no key of the config: choose from .*steps",
    "+schedule.steps=3": r"schedule\.steps is no key of schedule: choose from .*warmup",
    "+data.foo=3": r"data\.foo is no key of data: choose from dir, tokenizer",
    # types
    "steps=abc": "steps must be an integer, not 'abc'",
    "steps=1.5": "steps must be an integer, not 1.5",
    "steps=": "steps must be an integer, not ''",
    "seed=true": "seed must be an integer, not True",
    "batch=3": r"batch holds keys \(tokens, micro\), not the value 3",
    "batch.micro=foo": r"batch\.micro must be an integer or auto, not 'foo'",
    "grad_clip=inf": "grad_clip must be a number or null, not inf",
    "target_loss=low": "target_loss must be a number or null, not 'low'",
    "dtype=float16": "dtype must be auto or float32 or bfloat16, not 'float16'",
    "compile=maybe": "compile must be true or false or auto, not 'maybe'",
    "resume=yes": "resume must be true or false, not 'yes'",
    "allow_targets=torch.optim": "allow_targets must be a list, each a string",
    "model.name=3": r"model\.name must be a string",
    "model.bias=3": r"model\.bias must be true or false, not 3",
    "data.tokenizer=3": r"data\.tokenizer must be a string, not 3",
    "optimizer.lr=abc": r"optimizer\.lr must be a number, not 'abc'",
    "optimizer.lr=nan": r"optimizer\.lr must be a number, not nan",
    "optimizer.lr=null": r"optimizer\.lr must be a number, not None",
    "optimizer.betas=.9": r"optimizer\.betas must be a list of 2 values, not 0\.9",
    "optimizer.betas=[.9]": r"optimizer\.betas takes 2 values, not 1: \[0\.9\]",
    "optimizer.betas=[.9,.95,.99]": r"optimizer\.betas takes 2 values, not 3",
    "optimizer.betas=[.9,abc]": r"optimizer\.betas\[1\] must be a number, not 'abc'",
    "schedule.kind=foo": r"schedule\.kind must be cosine or linear or polynomial or constant or wsd, not 'foo'",
    # values
    "steps=0": "steps must be at least 1, not 0",
    "log.every=0": r"log\.every must be at least 1",
    "eval.every=-1": r"eval\.every must be at least 1",
    "checkpoint.every=0": r"checkpoint\.every must be at least 1",
    "seed=-1": r"seed must be between 0 and 2\^32 - 1, not -1",
    "seed=4294967296": "seed must be between 0 and",
    "grad_clip=0": "grad_clip must be above 0, not 0.0; null turns clipping off",
    "study=": "study must be the name of a folder, not empty",
    "run_dir=": "run_dir must be the name of a folder, not empty",
    "schedule.warmup=inf": r"schedule\.warmup must be a number, not inf",
    "schedule.warmup=2.5": r"schedule\.warmup must be a whole number of updates or a share below 1",
    "schedule.warmup=6": r"schedule\.warmup must be shorter than the run: 6 of 6 steps",
    "schedule.final=2": r"schedule\.final must be between 0 and 1",
    "model.heads=3": r"model\.width must be a multiple of heads",
    "model.layers=0": r"model\.layers must be at least 1, not 0",
    "optimizer.lr=-1": r"optimizer\.lr must be at least 0, not -1\.0",
    "optimizer.betas=[.9,2]": r"optimizer\.betas must each be at least 0 and below 1",
    "optimizer.foreach=true": "optimizer: `fused` and `foreach` cannot be `True` together",  # torch's RuntimeError
    "optimizer=lion optimizer.lr=-1": r"optimizer\.lr must be at least 0, not -1\.0",
    "optimizer=sophia_g optimizer.share=0": r"optimizer\.share must be above 0 and at most 1",
    "optimizer=sophia_g optimizer.preset=foo": r"optimizer\.preset must be paper or repo, not 'foo'",
    "device=gpu": "device must be auto, cpu, cuda or cuda:<index>, not gpu",
    # what does not fit together
    "batch.tokens=100": r"batch\.tokens=100 must be a multiple of context=128: give 128",
    "context=200": r"batch\.tokens=512 must be a multiple of context=200: give 400",
    "batch.micro=3": r"batch\.micro=3 does not divide the 4 sequences of one rank: give 2 or auto",
    "context=256": r"context=256 is longer than model\.context=128",
    "batch.tokens=1280000000000000": r"batch\.tokens: .* training split holds [\d]+; lower batch\.tokens",
    "eval.tokens=5": r"eval\.tokens is 5, under one window of 128 tokens",
    "eval.tokens=99999999999": r"eval\.tokens to at most \d+",
    "model.vocabulary=100": r"model\.vocabulary must be auto or at least 256, what the data has, not 100",
    # Hydra's own
    "steps": "cannot read 'steps': keys are given as key=value",
    "a=b=c": "cannot read 'a=b=c'",
    "optimizer.betas=[.9": r"cannot read 'optimizer\.betas=\[\.9'",
    "=3": "cannot read",
    "+@=a": r"Hydra cannot read the command line \(.+\): keys are given as key=value",
    "+experiment=[demo,[a]]": r"Hydra cannot read the command line \(can only concatenate str",
    "optimizer=null": "cannot read .*optimizer=null: a group takes the name of one of its options",
    "optimizer=adamw,lion": "optimizer=adamw,lion has several values: add -m",
    "steps=${foo}": "the config refers to foo, which is not there",
    "~model.context": r"the config refers to model\.context, which is not there",
    "~steps": "steps is missing: give steps=<an integer>",
    "~optimizer": "optimizer is missing",
    "~model.family": r"model\.family must be a string",
    "data=local": r"data\.files is missing: give data\.files=<value>",
    "optimizer=external": r"optimizer\._target_ is missing: give optimizer\._target_=<value>",
    "--foo": "unrecognized arguments: --foo; keys are given as key=value, and --help lists them",
    "steps=3 --cfg foo": "argument --cfg/-c: invalid choice: 'foo' .*; keys are given as key=value",
    "--config-name=foo": "Cannot find primary config 'foo'",
    # anyone's class
    "optimizer._target_=torch.optim.Adam": "add optimizer=external",
    f"{EXTERNAL}foo": r"optimizer\._target_ must name a class",
    f"{EXTERNAL}3": r"optimizer\._target_ must name a class",
    f"{EXTERNAL}collections.deque": "collections.deque is not under allow_targets=.*: if you trust it",
    f"{EXTERNAL}collections.deque allow_targets=[collections]": r"is no torch\.optim\.Optimizer class",
    f"{EXTERNAL}torch.optim.Adamm": r"is no torch\.optim\.Optimizer class; did you mean Adam",
    f"{EXTERNAL}torch.optim.foo.Bar": r"there is no module torch\.optim\.foo; install its package",
    f"{EXTERNAL}pytorch_optimizer.Lion optimizer.lr=-1": r"optimizer\.lr must be at least 0",
    f"{EXTERNAL}pytorch_optimizer.Lion optimizer.lr=abc": r"optimizer\.lr must be a number",
    f"{EXTERNAL}pytorch_optimizer.SOAP optimizer.weight_dacay=1": r"weight_dacay is no key .*did you mean weight_decay",
    f"{EXTERNAL}pytorch_optimizer.SAM": r"wraps another optimizer: give optimizer\.base\._target_=",
    # files
    "run_dir=/proc/nothing/run": "run_dir=/proc/nothing/run cannot be made .*: give another",
    "data.dir=/proc/nothing": r"data\.dir: /proc/nothing/.* cannot be written .*; choose another",
    "data=shards data.train=a.bin data.val=b.bin": r"data\.train: there is no shard at a\.bin",
    "data=local data.files=[a.txt]": r"data\.files: there is no file at a\.txt",
}  # fmt: skip


# Every fourth is quick, which leaves some of each kind.
@pytest.mark.parametrize(
    "arguments", [pytest.param(each, marks=[pytest.mark.slow] * (n % 4 > 0)) for n, each in enumerate(WRONG)]
)
def test_wrong_arguments_end_in_one_sentence_and_leave_nothing(here, arguments):
    assert re.search(WRONG[arguments], complaint(in_process(*arguments.split())))
    assert not list(here.iterdir())


def test_flags_stand_anywhere_and_keys_keep_their_order():
    words = ["steps=3", "-m", "optimizer.lr=1", "--cfg", "job", "~data", "--info=config"]
    assert flags_first(words) == ["-m", "--cfg", "job", "--info=config", "steps=3", "++optimizer.lr=1", "~data"]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["optimizer.betas=[.9]", "steps", "--foo"])
def test_the_real_command_says_the_same(here, arguments):
    assert re.search(WRONG[arguments], complaint(real(arguments, cwd=here)))
    assert not list(here.iterdir())
