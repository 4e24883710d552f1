"""Libraries of NVIDIA's in C and C++: cuBLAS, cuDNN, cuFFT, cuSPARSE, cuRAND, cuSOLVER, NCCL, CUB, Thrust.

Every vendor has libraries for the same jobs, few with the same names. PyTorch's operators reach all of them.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from anychip.audit.finding import Finding
from anychip.audit.reading import Plain
from anychip.audit.rules._cxx import KINDS as KINDS
from anychip.audit.rules._cxx import Construct, find_constructs
from anychip.audit.rules.cuda_runtime import fix_of

NAME = "cuda-library"
VALID = ("<cxx>\ncublas_like(); std::sort(a, b);\n", "<cuda>\n// cublasSgemm(h);\nint a;\n")
INVALID = (
    ("<cuda>\ncublasSgemm(handle, a, b);\nncclAllReduce(x);\n", ("cublasSgemm", "ncclAllReduce")),
    (
        "<cuda>\n#include <cublas_v2.h>\ncublasHandle_t h = CUBLAS_OP_N;\n",
        ("cublas_v2.h", "cublasHandle_t", "CUBLAS_OP_N"),
    ),
    (
        "<cuda>\nthrust::sort(a, b);\ncub::BlockReduce<float, 32> r;\ncuda::std::pair p;\n",
        ("thrust::", "cub::", "cuda::"),
    ),
)
_CALL = re.compile(
    r"\b(cublas(?:Lt|Xt)?[A-Z]\w+|cudnn[A-Z]\w+|cufft[A-Z]\w+|cusparse[A-Z]\w+|curand\w*|cusolver\w+|nccl[A-Z]\w+|cutensor[A-Z]\w+)\s*\("
)
_TYPE = re.compile(
    r"\b((?:cublas|cudnn|cufft|curand|cusparse|cusolver|nccl|cutensor)(?:Lt|Xt|Dn|Sp)?[A-Z]\w*|curandState\w*|CU(?:BLAS|DNN|FFT|RAND|SPARSE|SOLVER)_\w+)"
    r"\b(?!\s*\()"
)
_INCLUDE = re.compile(
    r"^[ \t]*#[ \t]*include[ \t]*[<\"]((?:(?:cublas|cudnn|cufft|curand|cusparse|cusolver|nccl|cutensor)\w*\.h|"
    r"(?:cub|thrust|cutlass|cute|cudnn_frontend\w*)(?:/[^>\"]+|\.h(?:pp)?)))[>\"]",
    re.MULTILINE,
)
_HEADERS = re.compile(r"\b((?:cub|thrust)::)|(?<![\w:])(cuda::)(?=\w)")
CALLS = (
    Construct(_CALL, "thought", "a library of NVIDIA's", ""),
    Construct(_TYPE, "thought", "a type or constant of a library of NVIDIA's", ""),
    Construct(_INCLUDE, "thought", "a header of a library of NVIDIA's", ""),
    Construct(
        _HEADERS, "thought", "templates of NVIDIA's", "hipCUB and rocThrust for AMD; PyTorch's operators elsewhere"
    ),
)


def find(file: Plain) -> Iterable[Finding]:
    for found in find_constructs(file, NAME, CALLS, lambda symbol: ("cuda_symbol", symbol)):
        yield found if found.fix else replace(found, fix=fix_of(found.symbol))
