"""Lines of a file that plainly name CUDA, by words alone: a second opinion for the recall of `anychip audit`.

    lines_of("train.py", text)     # {12, 40}: numbers of the lines, from 1

No parser and no scopes, nothing of anychip: Python's tokenizer, and regular expressions over other files without their
comments. It sees less than the audit (no names that are imported, nothing that flows) and takes some for CUDA that are none.
"""

import io
import re
import tokenize

_PACKAGES = "triton cupy cupyx apex flash_attn xformers bitsandbytes transformer_engine pynvml pycuda tensorrt nvtx flashinfer numba"
_IMPORT = re.compile(rf"^\s*(?:from|import)\s+(?:{_PACKAGES.replace(' ', '|')})\b")
_STRING = re.compile(r"""[rbuRBU]?(['"]{1,3})(?:cuda(?::\d+)?|nccl|(?:CUDA|NCCL)_[A-Z_]+)\1\Z""")
_F_STRING = re.compile(r"""[fFrR]{1,2}(['"])cuda:\{""")
_NAMES = {"is_cuda", "CUDAExtension", "DataParallel"}
_KERNEL = re.compile(
    r"\b(?:cuda[A-Z]\w+|cublas(?:Lt)?[A-Z]\w+|cudnn[A-Z]\w+|cufft[A-Z]\w+|cusparse[A-Z]\w+|curand[A-Z_]\w+|cusolver\w+|nccl[A-Z]\w+|"
    r"__global__|__device__|__shared__|__syncthreads|__launch_bounds__|threadIdx|blockIdx|blockDim|gridDim|__shfl_\w+)\b|<<<"
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_SHELL = re.compile(r"\bnvidia-smi\b|\bCUDA_VISIBLE_DEVICES\b|\bNCCL_[A-Z_]+|\bnvcc\b|\bnvidia/cuda\b")
_SHELL_COMMENT = re.compile(r"(?:^|\s)#(?!SBATCH).*")
PYTHON, KERNELS = (".py",), (".cu", ".cuh", ".cpp", ".cc", ".h", ".hpp")
SCRIPTS = (".sh", ".bash", ".slurm", ".sbatch", "Dockerfile")


def lines_of(path: str, text: str) -> set[int]:
    """Line numbers; none for files of other kinds and Python that cannot be read."""
    if path.endswith(PYTHON):
        return (
            _python(text)
            if re.search("cuda|CUDA|nccl|NCCL|triton|apex|flash_attn|DataParallel|cupy|xformers", text)
            else set()
        )
    if path.endswith(KERNELS):
        if ("/hip/" in path or re.search(r"hip/hip_|__HIP", text)) and not re.search(
            r"cuda[A-Z_]|cu(?:blas|dnn)", text
        ):
            return set()  # AMD's already
        bare = _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
        return {bare.count("\n", 0, match.start()) + 1 for match in _KERNEL.finditer(bare)}
    if path.endswith(SCRIPTS):
        lines = enumerate(text.split("\n"), 1)
        return {number for number, line in lines if _SHELL.search(_SHELL_COMMENT.sub("", line))}
    return set()


def _python(text: str) -> set[int]:
    found = {number for number, line in enumerate(text.split("\n"), 1) if _IMPORT.match(line)}
    before: list[tokenize.TokenInfo] = []
    inside = -1
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type in (tokenize.COMMENT, tokenize.NL):
                continue
            if _is_bound([word.string for word in before], token):
                found.add(token.start[0])
            before = [*before[-2:], token]
            inside = token.start[0] if token.string == "import" else inside
    except (tokenize.TokenError, SyntaxError):
        return set()
    if inside < 0:
        return found
    documented = _texts(text)
    return {line for line in found if line not in documented}


def _is_bound(before: list[str], token: tokenize.TokenInfo) -> bool:
    if token.type == tokenize.NAME:
        after_dot = before[-1:] == ["."]
        return (token.string in _NAMES and (after_dot or token.string == "CUDAExtension")) or (
            token.string == "cuda" and after_dot and before[-2:-1] in (["torch"], ["th"])
        )
    if token.type == tokenize.OP and token.string == "(":
        return before[-2:] == [".", "cuda"]
    if token.type == tokenize.STRING:
        return bool(_STRING.match(token.string) or _F_STRING.match(token.string))
    return False


def _texts(text: str) -> set[int]:
    """Lines inside of strings over several lines, which look like imports and are none."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING and token.end[0] > token.start[0]:
            found.update(range(token.start[0] + 1, token.end[0] + 1))
    return found
