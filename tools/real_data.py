"""Makes small random data in the layouts that public programs read: `python tools/real_data.py KIND FOLDER`.

The numbers mean nothing: a program on a virtual chip has to start and to step, not to learn. Kinds: see KINDS.
"""

import json
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

rng = np.random.default_rng(0)
WORDS = [
    "a",
    "model",
    "of",
    "words",
    "reads",
    "and",
    "writes",
    "one",
    "more",
    "batch",
    "in",
    "every",
    "step",
    ".",
    "<unk>",
]


def mnist(folder: Path) -> None:
    """torchvision.datasets.MNIST(FOLDER): four idx files."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", 2048), ("t10k", 512)):
        pixels, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, *pixels.shape) + pixels.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())


def cifar10(folder: Path) -> None:
    """The python version of CIFAR-10, five batches and a test batch."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True, exist_ok=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        count = 200
        content = {"data": rng.integers(0, 256, (count, 3072), np.uint8), "labels": rng.integers(0, 10, count).tolist()}
        (batches / name).write_bytes(pickle.dumps(content))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))


def imagefolder(folder: Path) -> None:
    """FOLDER/{train,val}/CLASS/*.png: 4 classes of 16 pictures of 256 x 256."""
    from PIL import Image

    for split in ("train", "val"):
        for label in range(4):
            of_class = folder / split / f"n{label:08d}"
            of_class.mkdir(parents=True, exist_ok=True)
            for number in range(16):
                picture(256, 256, Image).save(of_class / f"{number}.png")


def picture(width: int, height: int, image: object) -> object:
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    return image.fromarray(coarse.repeat(16, 0).repeat(16, 1))  # type: ignore[attr-defined]


def tokens(folder: Path) -> None:
    """FOLDER/{train,val}.bin: token numbers as uint16, and meta.pkl with the vocabulary of characters."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        rng.integers(0, 65, 200_000).astype(np.uint16).tofile(folder / f"{split}.bin")
    letters = [chr(32 + number) for number in range(65)]
    by_letter = {letter: number for number, letter in enumerate(letters)}
    meta = {"vocab_size": 65, "itos": dict(enumerate(letters)), "stoi": by_letter}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def text(folder: Path) -> None:
    """FOLDER/{train,valid,test,input}.txt and train.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in (("train", 4000), ("valid", 500), ("test", 500), ("input", 4000)):
        rows = (" ".join(WORDS[at] for at in rng.integers(0, len(WORDS), 16)) for _ in range(lines))
        (folder / f"{split}.txt").write_text("\n".join(f" {row} " for row in rows) + "\n", encoding="utf-8")
    row = json.dumps({"text": " ".join(WORDS * 8)})
    (folder / "train.jsonl").write_text(f"{row}\n" * 200, encoding="utf-8")


def cora(folder: Path) -> None:
    """cora.content and cora.cites: a citation graph of 2,708 papers with 1,433 words, as the real one has."""
    folder.mkdir(parents=True, exist_ok=True)
    papers, features, edges = 2708, 1433, 5429
    with open(folder / "cora.content", "w", encoding="utf-8") as file:
        for paper in range(papers):
            words = rng.random(features) < 0.0127
            file.write("\t".join([str(paper), *words.astype(int).astype(str), f"class{paper % 7}"]) + "\n")
    np.savetxt(folder / "cora.cites", rng.integers(0, papers, (edges, 2)), fmt="%d", delimiter="\t")


def coco(folder: Path) -> None:
    """FOLDER/{train2017,val2017}/*.jpg and annotations/instances_*.json, three boxes a picture."""
    from PIL import Image

    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train2017", "val2017"):
        (folder / split).mkdir(exist_ok=True)
        images, boxes = [], []
        for number in range(1, 17):
            picture(640, 480, Image).save(folder / split / f"{number:012d}.jpg")  # type: ignore[attr-defined]
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "height": 480, "width": 640})
            for at in range(3):
                box = [40 * at, 30, 160, 120]
                corners = [box[0], 30, box[0] + 160, 30, box[0] + 160, 150, box[0], 150]
                boxes.append({"id": len(boxes) + 1, "image_id": number, "category_id": 1 + at, "bbox": box,
                              "area": 19200, "iscrowd": 0, "segmentation": [corners]})  # fmt: skip
        kinds = [{"id": one, "name": f"kind{one}"} for one in range(1, 4)]
        content = {"images": images, "annotations": boxes, "categories": kinds}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def tokenizer(folder: Path) -> None:
    """A byte-level tokenizer that transformers loads from FOLDER, trained on words of ours."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    made = ByteLevelBPETokenizer()
    made.train_from_iterator([" ".join(WORDS)] * 10, vocab_size=400, special_tokens=["<s>", "</s>", "<pad>"])
    made.save(str(folder / "tokenizer.json"))
    fast = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>",
                                   pad_token="<pad>", unk_token="</s>", model_max_length=1024)  # fmt: skip
    fast.save_pretrained(folder)


def documents(folder: Path) -> None:
    """FOLDER/data.json of long documents, a line each, as `datasets` reads text to train on."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"text": " ".join(WORDS[:-1] * 600)})
    (folder / "data.json").write_text(f"{line}\n" * 1000, encoding="utf-8")


def sentencepiece(folder: Path) -> None:
    """FOLDER/tokenizer.model, as Llama's tools read it."""
    import sentencepiece as sp

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.txt").write_text("\n".join([" ".join(WORDS)] * 50), encoding="utf-8")
    sp.SentencePieceTrainer.train(input=str(folder / "words.txt"), model_prefix=str(folder / "tokenizer"),
                                  vocab_size=60, model_type="bpe", minloglevel=2)  # fmt: skip


def hub(folder: Path) -> None:
    """A torch hub cache with random weights of ResNet-50, for programs that download them before they train."""
    import torch

    tensors: dict[str, torch.Tensor] = {}

    def layer(name: str, norm: str, outputs: int, inputs: int, size: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs, size, size) * 0.01
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{part}"] = torch.rand(outputs)
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(0)

    layer("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            layer(f"{name}.conv1", f"{name}.bn1", width, inputs, 1)
            layer(f"{name}.conv2", f"{name}.bn2", width, width, 3)
            layer(f"{name}.conv3", f"{name}.bn3", 4 * width, width, 1)
            if block == 0:
                layer(f"{name}.downsample.0", f"{name}.downsample.1", 4 * width, inputs, 1)
            inputs = 4 * width
    tensors |= {"fc.weight": torch.randn(1000, 2048) * 0.01, "fc.bias": torch.zeros(1000)}
    (folder / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    for file in ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"):
        torch.save(tensors, folder / "hub" / "checkpoints" / file)


KINDS: dict[str, Callable[[Path], None]] = {
    made.__name__: made
    for made in (mnist, cifar10, imagefolder, tokens, text, cora, coco, tokenizer, documents, sentencepiece, hub)
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](Path(sys.argv[2]))
