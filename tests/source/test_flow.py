"""Device names from where they are written to where they are used, in a file and across files."""

from anychip.source.flow import flow_of
from anychip.source.module import module_name, parse
from anychip.source.project import follow, module_flow


def reached(**files):
    """{"file:line of the sink": "file:line of the source"}; a file's name has __ for its folders."""
    flows = []
    for name, code in files.items():
        path = name.replace("__", "/") + ".py"
        flows.append(module_flow(parse(code, path, module_name(path))))
    return {
        f"{r.sink.place.path}:{r.sink.place.line}": f"{r.source.place.path}:{r.source.place.line} {r.source.text}"
        for r in follow(flows)
    }


def test_a_variable():
    assert reached(a='d = "cuda"\nx.to(d)\n') == {"a.py:2": "a.py:1 cuda"}


def test_a_variable_of_any_name_that_is_given_to_pytorch():
    assert reached(a='where = "cuda:0" if ok else "cpu"\nx = f(device=where)\n') == {"a.py:2": "a.py:1 cuda:0"}


def test_torch_device_passes_a_name_on():
    assert reached(a='import torch\nname = "cuda"\nd = torch.device(name)\nx.to(d)\n') == {
        "a.py:3": "a.py:2 cuda",
        "a.py:4": "a.py:2 cuda",
    }


def test_a_default_of_a_parameter():
    assert reached(a='def f(x, device="cuda"):\n    return x.to(device)\n') == {"a.py:2": "a.py:1 cuda"}


def test_an_argument_of_a_function_of_the_file():
    assert reached(a='def f(where):\n    x.to(where)\nf("cuda")\n') == {"a.py:2": "a.py:3 cuda"}


def test_an_attribute_of_the_class():
    code = 'class A:\n    def __init__(self, device="cuda"):\n        self.device = device\n    def f(self):\n        x.to(self.device)\n'
    assert reached(a=code) == {"a.py:5": "a.py:2 cuda"}


def test_a_field_of_a_dataclass_in_another_file():
    conf = 'from dataclasses import dataclass\n@dataclass\nclass C:\n    device: str = "cuda"\n'
    use = "from pkg.conf import C\ndef f(c: C):\n    x.to(c.device)\nx.to(C().device)\nk = C()\nx.to(k.device)\n"
    assert reached(pkg__conf=conf, pkg__use=use) == {
        "pkg/use.py:3": "pkg/conf.py:4 cuda",
        "pkg/use.py:6": "pkg/conf.py:4 cuda",
    }


def test_an_option_of_the_command_line():
    code = 'import argparse\np = argparse.ArgumentParser()\np.add_argument("--my-device", default="cuda")\nargs = p.parse_args()\nx.to(args.my_device)\n'
    assert reached(a=code) == {"a.py:5": "a.py:3 cuda"}


def test_an_option_that_another_file_declares():
    main = 'p.add_argument("--device", default="cuda")\n'
    assert reached(main=main, lib="def f(args):\n    x.to(args.device)\n") == {"lib.py:2": "main.py:1 cuda"}


def test_a_constant_of_another_file_by_any_import():
    files = {
        "pkg__conf": 'DEVICE = "cuda"\n',
        "pkg__a": "from .conf import DEVICE\nx.to(DEVICE)\n",
        "pkg__b": "from pkg import conf\nx.to(conf.DEVICE)\n",
    }
    assert reached(**files) == {"pkg/a.py:2": "pkg/conf.py:1 cuda", "pkg/b.py:2": "pkg/conf.py:1 cuda"}


def test_a_function_of_another_file_that_returns_a_device():
    files = {
        "util": 'def get_device():\n    return "cuda"\n',
        "main": "from util import get_device\nx.to(get_device())\nd = get_device()\nx.to(d)\n",
    }
    assert reached(**files) == {"main.py:2": "util.py:2 cuda", "main.py:4": "util.py:2 cuda"}


def test_an_f_string_and_a_format():
    assert reached(a='d = f"cuda:{rank}"\nx.to(d)\n') == {"a.py:2": "a.py:1 cuda:{}"}
    assert reached(a='d = "cuda:{}".format(i)\nx.to(d)\n') == {"a.py:2": "a.py:1 cuda:{}"}
    assert reached(a='kind = "cuda"\nd = f"{kind}:{i}"\nx.to(d)\n') == {"a.py:3": "a.py:1 cuda"}


def test_a_key_of_a_dict():
    assert reached(a='conf = {"device": "cuda"}\nx.to(conf["device"])\n') == {"a.py:2": "a.py:1 cuda"}


def test_a_backend():
    code = 'import torch.distributed as dist\nb = "nccl" if gpu else "gloo"\ndist.init_process_group(backend=b)\n'
    assert reached(a=code) == {"a.py:3": "a.py:2 nccl"}


def test_the_device_of_a_tensor_is_not_followed():
    assert reached(a='class A:\n    device = "cuda"\ny = g()\nx.to(y.device)\n') == {}


def test_circles_end():
    assert reached(a='device = "cuda"\ndev = device\ndevice = dev\nx.to(dev)\n') == {"a.py:4": "a.py:1 cuda"}


def uses(code):
    return [dict(reversed(value.uses)) for value in flow_of(parse(code)).values]


def test_what_takes_a_string():
    assert "sink" in uses('x.to("cuda")')[0]
    assert "compare" in uses('if x.device.type == "cuda": pass')[0]
    assert "compare" in uses('if d in ("cuda", "cpu"): pass')[0]
    assert "choice" in uses('p.add_argument("--device", choices=["cpu", "cuda"])')[0]
    assert "key" in uses('x["cuda"]')[0]
    assert "key" in uses('{"cuda": 1}')[0]
    assert "argument" in uses('hasattr(torch, "cuda")')[0]
    assert "compare" in uses('match d:\n    case "cuda": pass')[0]
