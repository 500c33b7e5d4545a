"""`effopd train` where DeepSpeed is to run on CPUs without compiling anything: the arguments are the command's."""

import os
import sys

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed

from effopd import cli

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled, for minutes

if __name__ == "__main__":
    sys.exit(cli.main(["train", *sys.argv[1:]]))
