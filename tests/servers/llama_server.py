"""llama.cpp's own server, by `xllamacpp`: `python llama_server.py FILE.gguf PORT`."""

from __future__ import annotations

import sys
import time

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.port = sys.argv[1], int(sys.argv[2])
parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads = 2048, 4, 1
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
while True:
    time.sleep(3600)
