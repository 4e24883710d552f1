"""Every field of a chip file and of a platform file: the one table from which the validator, the JSON Schema and the
generated docs page are made.

A path's ``*`` stands for a name that the file chooses (a dtype, a memory tier, a source). Types:
  figure   { value, unit, src, kind, date, note }, or "unknown", or "none" (the chip has no such thing)
  shape    as a figure, whose value is a list of element counts
  text, integer, flag, texts (list of text), integers (list of integers), words (table of texts), date
"""

from dataclasses import dataclass
from functools import cache

SCHEMA_VERSION = 1
KINDS = ("datasheet", "reported", "measured", "derived", "estimated")
DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4")
USES = ("storage", "elementwise", "matmul", "reduction", "collective", "autocast")
ANSWERS = ("native", "emulated", "cast", "fallback", "error", "unknown")
COLLECTIVE_ALGORITHMS = ("ring", "tree", "halving_doubling", "direct", "hierarchical", "pipeline", "in_switch", "torus")
TOPOLOGIES = ("switch", "mesh", "ring", "torus2d", "torus3d", "hypercube", "dragonfly", "pairs", "none", "unknown")


@dataclass(frozen=True)
class Field:
    """One field: where it stands, what it may hold, what it means."""

    path: str
    type: str
    about: str
    dimension: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()


def _source_fields() -> tuple[Field, ...]:
    return (
        Field("sources.*.url", "text", "Page, paper or repository file that states the figures; absent only where "
              "nothing could be found, and then every figure of it is `estimated`."),
        Field("sources.*.title", "text", "What the page is, in a few words.", required=True),
        Field("sources.*.kind", "text", "How figures of this source came about, unless a figure says otherwise: "
              "datasheet (the maker's own page), reported (somebody else repeats the maker), measured, derived "
              "(computed from other figures), estimated (no page states it).", required=True, choices=KINDS),
        Field("sources.*.date", "date", "Day on which the page was read, year-month-day.", required=True),
        Field("sources.*.note", "text", "What to know of this source."),
    )  # fmt: skip


def _link_fields(role: str, what: str) -> tuple[Field, ...]:
    base = f"links.{role}"
    return (
        Field(f"{base}.name", "text", f"What the maker calls the {what}."),
        Field(f"{base}.wire", "text", "Id of the file in links/ that describes the wire and its protocol."),
        Field(f"{base}.topology", "text", "How the chips of one domain are joined.", choices=TOPOLOGIES),
        Field(f"{base}.one_way", "figure", "What one chip can send, all ports together.", "byte/s"),
        Field(f"{base}.bidirectional", "figure", "Send plus receive over all ports: the number that makers print.",
              "byte/s"),
        Field(f"{base}.peer_one_way", "figure", "What one chip can send to one other chip.", "byte/s"),
        Field(f"{base}.domain_chips", "figure", "Largest set of chips that this link joins.", "count"),
        Field(f"{base}.note", "text", "What to know of this link."),
    )  # fmt: skip


CHIP_FIELDS: tuple[Field, ...] = (
    Field("schema_version", "integer", "Version of this schema: 1.", required=True, choices=(str(SCHEMA_VERSION),)),
    Field("id", "text", "vendor-product[-variant] in small letters; the file's name without .toml.", required=True),
    Field("aliases", "texts", "Short names; each belongs to one chip only."),
    Field("vendor", "text", "Who makes the chip.", required=True),
    Field("name", "text", "What the maker calls it.", required=True),
    Field("platform", "text", "Id of the file in platforms/: the software that drives the chip.", required=True),
    Field("generation", "text", "The maker's generation; selects [generation.X] of the platform file."),
    Field("extends", "text", "Id of a chip of which this file is a variant: every field not given here is that one's."),
    Field("execution", "text", "kernel: a host launches one kernel after another. graph: a whole step is compiled and "
          "runs as one. host: the program's own thread runs each op when it calls it.", required=True,
          choices=("kernel", "graph", "host")),
    Field("cluster", "text", "Id of the file in clusters/ that says how it is usually put together."),
    Field("launched", "date", "Day, month or year of launch."),
    Field("process", "text", "Process and dies."),
    Field("notes", "texts", "What to know of this chip."),
    *_source_fields(),
    Field("torch.device_name", "text", "What torch.cuda.get_device_name or the plug-in's function answers."),
    Field("torch.capability", "integers", "What get_device_capability answers; where it has none, the platform's."),
    Field("torch.warp_size", "integer", "Threads that run in lockstep, as get_device_properties answers."),
    Field("torch.arch", "text", "Architecture name that a program can ask for (sm_90, gfx942)."),
    Field("peaks.matrix.*", "figure", "Dense peak of the matrix engine for this dtype.", "flop/s"),
    Field("peaks.matrix_sparse.*", "figure", "Peak of the matrix engine with structured sparsity.", "flop/s"),
    Field("peaks.vector.*", "figure", "Peak outside of the matrix engine for this dtype.", "flop/s"),
    Field("memory.*.capacity", "figure", "Size as built.", "byte"),
    Field("memory.*.usable", "figure", "What a program can allocate at most, as the driver reports it.", "byte"),
    Field("memory.*.bandwidth", "figure", "Peak of reads and writes together.", "byte/s"),
    Field("memory.*.technology", "text", "HBM3, GDDR6, SRAM."),
    Field("memory.*.note", "text", "What to know of this memory."),
    Field("engine.cores", "figure", "Units that share out a kernel's work: SM, CU, AI core, TPC.", "count"),
    Field("engine.core_name", "text", "What the maker calls such a unit."),
    Field("engine.matrix_tile", "shape", "m, n, k of the block of a matrix product that one core usually works on."),
    Field("engine.matrix_unit", "shape", "Rows and columns to which the matrix engine pads."),
    Field("engine.peak_clock", "figure", "Clock at which the peaks hold.", "Hz"),
    Field("engine.sustained_clock", "figure", "Clock under long dense matrix products, where it was measured.", "Hz"),
    Field("engine.collective_cores", "figure", "Cores that a large collective occupies while it runs; none where it needs "
          "no cores.", "count"),
    Field("engine.devices_per_package", "integer", "Devices that the driver shows for one package."),
    Field("engine.device", "text", "Id of the chip file of one of those devices, where there are several."),
    *_link_fields("scale_up", "link between chips of one domain"),
    *_link_fields("scale_out", "network between domains, per chip"),
    *_link_fields("host", "link to the host"),
    Field("power.limit", "figure", "Board or package power limit.", "W"),
    Field("price.unit", "figure", "Price of one chip as bought; dated, no advice.", "USD"),
    Field("price.per_hour_low", "figure", "Lowest listed cloud price per chip.", "USD/h"),
    Field("price.per_hour_high", "figure", "Highest listed cloud price per chip.", "USD/h"),
    Field("export.status", "text", "What is known of export rules; dated, no advice."),
    Field("export.src", "text", "Name of the source."),
    Field("disputed.*.figure", "text", "Dotted path of the figure on which sources disagree.", required=True),
    Field("disputed.*.values", "texts", "Each value that was seen, with who prints it.", required=True),
    Field("disputed.*.used", "text", "The value that this file uses.", required=True),
    Field("disputed.*.why", "text", "Why that one.", required=True),
)  # fmt: skip

_DTYPE_FIELDS = tuple(
    Field(f"dtypes.*.{use}", "text", f"What {about} in this torch dtype does.", choices=ANSWERS)
    for use, about in {
        "storage": "holding a tensor",
        "elementwise": "an element-wise op",
        "matmul": "a matrix product",
        "reduction": "a reduction",
        "collective": "a collective",
        "autocast": "autocast",
    }.items()
)

PLATFORM_FIELDS: tuple[Field, ...] = (
    Field("schema_version", "integer", "Version of this schema: 1.", required=True, choices=(str(SCHEMA_VERSION),)),
    Field("id", "text", "vendor-stack in small letters; the file's name without .toml.", required=True),
    Field("vendor", "text", "Who publishes the software.", required=True),
    Field("name", "text", "What it is called.", required=True),
    Field("device_type", "text", "What `tensor.device.type` says.", required=True),
    Field("module", "text", "Python module that answers for the device (torch.cuda, torch.npu).", required=True),
    Field("import", "texts", "Modules to import before the device exists."),
    Field("autoload", "flag", "The plug-in is loaded by `import torch` itself."),
    Field("maker_pages", "texts", "Hosts, or host and path, where the maker of the chips publishes data sheets."),
    Field("dispatch_key", "text", "Key under which the kernels are registered."),
    Field("cuda_code", "text", "native: CUDA code runs as it is. shim: with the vendor's import-time replacement. no.",
          choices=("native", "shim", "no", "unknown")),
    Field("cuda_shim", "text", "Module that replaces torch.cuda at import."),
    Field("cuda_shim_env", "text", "Environment variable that loads it without an edit."),
    Field("notes", "texts", "What to know of this platform."),
    Field("quirks", "texts", "What breaks when a CUDA program is moved here."),
    *_source_fields(),
    Field("detect.module", "text", "Module whose presence says that the platform is here."),
    Field("detect.version_attribute", "text", "Attribute of torch.version that is set."),
    Field("detect.local_version", "text", "Regular expression on the local version of the torch wheel."),
    Field("detect.smi", "text", "The vendor's command that lists devices."),
    Field("detect.src", "text", "Name of the source."),
    Field("env.visible_devices", "texts", "Environment variables that choose devices."),
    Field("env.alloc_conf", "text", "Environment variable of the caching allocator."),
    Field("env.launch_blocking", "text", "Environment variable that makes launches synchronous."),
    Field("env.src", "text", "Name of the source."),
    Field("launch.queue", "integer", "Launches that a stream's queue holds; the host blocks until the chip takes one of a full one."),
    Field("launch.src", "text", "Name of the source."),
    Field("launch.note", "text", "What was counted."),
    Field("distributed.backends", "texts", "c10d backend names that work, the first by choice."),
    Field("distributed.import", "texts", "Modules to import before a group of the first of them is made."),
    Field("distributed.library", "text", "What runs underneath."),
    Field("distributed.algorithms_src", "text", "Name of the source of the algorithms."),
    Field("distributed.algorithms", "texts", "How it carries out collectives; where it is not said, any way that the "
          "topology allows.", choices=COLLECTIVE_ALGORITHMS),
    Field("distributed.src", "text", "Name of the source."),
    *_DTYPE_FIELDS,
    Field("semantics.fp8", "text", "fn (OCP) or fnuz.", choices=("fn", "fnuz", "none", "unknown")),
    Field("semantics.tf32", "flag", "float32 matrix products can be run in a shortened format."),
    Field("semantics.note", "text", "Differences in values."),
    Field("semantics.src", "text", "Name of the source."),
    Field("attention.fused", "flag", "scaled_dot_product_attention runs as one kernel."),
    Field("attention.kernels", "texts", "Kernels that it can choose: flash, efficient, cudnn, math, or the vendor's."),
    Field("attention.src", "text", "Name of the source."),
    Field("compile.backends", "texts", "torch.compile backends."),
    Field("compile.default", "text", "The one that is used by default."),
    Field("compile.src", "text", "Name of the source."),
    Field("graphs.class", "text", "Class that captures and replays; none where there is none."),
    Field("graphs.limit", "text", "Known limits."),
    Field("graphs.src", "text", "Name of the source."),
    Field("triton.package", "text", "Package that brings Triton for this platform; none."),
    Field("triton.version", "text", "Version seen."),
    Field("triton.src", "text", "Name of the source."),
    Field("kernels.language", "text", "Language of hand-written kernels."),
    Field("kernels.src", "text", "Name of the source."),
    Field("libraries.*", "text", "What stands in for this module: a package, sdpa, torch (plain torch ops), or none."),
    Field("library_src", "text", "Name of the source of [libraries]."),
    Field("serving.vllm", "text", "vLLM plug-in."),
    Field("serving.src", "text", "Name of the source."),
    Field("install.packages", "texts", "Packages that bring it."),
    Field("install.public", "flag", "They can be downloaded by anybody."),
    Field("install.src", "text", "Name of the source."),
    Field("versions.torch", "texts", "torch versions for which the vendor publishes it."),
    Field("versions.src", "text", "Name of the source."),
    Field("cuda_answers.capability", "integers", "What a CUDA program that asks for the capability is told."),
    Field("cuda_answers.warp_size", "integer", "What it is told as warp size."),
    Field("cuda_answers.note", "text", "Why."),
    Field("generation.*.dtypes.*.*", "text", "As [dtypes], for chips of this generation only.", choices=ANSWERS),
    Field("generation.*.semantics.fp8", "text", "As [semantics].", choices=("fn", "fnuz", "none", "unknown")),
    Field("generation.*.semantics.tf32", "flag", "As [semantics]."),
    Field("generation.*.graphs.class", "text", "As [graphs]."),
    Field("generation.*.notes", "texts", "What to know of this generation."),
)  # fmt: skip

LINK_FIELDS: tuple[Field, ...] = (
    Field("schema_version", "integer", "Version of this schema: 1.", required=True, choices=(str(SCHEMA_VERSION),)),
    Field("id", "text", "The file's name without .toml.", required=True),
    Field("name", "text", "What the maker calls it.", required=True),
    Field("vendor", "text", "Who makes it.", required=True),
    Field("role", "text", "Where it is used.", required=True, choices=("scale_up", "scale_out", "host")),
    Field("notes", "texts", "What to know of it."),
    *_source_fields(),
    Field("wire.per_link_one_way", "figure", "What one link carries in one direction.", "byte/s"),
    Field("wire.latency", "figure", "One message of no bytes, end to end.", "s"),
    Field("wire.hop_latency", "figure", "Each further hop.", "s"),
    Field("wire.efficiency", "figure", "Share of the wire rate that large collectives reach.", "ratio"),
    Field("wire.in_network_reduction", "flag", "The switch adds up: all-reduce moves each byte once."),
    Field("wire.coherent", "flag", "Of a link to the host: the chip reads memory through the host's page tables, so that none has to be pinned."),
    Field("wire.in_network_efficiency", "figure", "Share of the attained wire rate that such a reduction reaches, where "
          "its maker prints one.", "ratio"),
    Field("wire.topologies", "texts", "Topologies that are built of it.", choices=TOPOLOGIES),
)  # fmt: skip

CLUSTER_FIELDS: tuple[Field, ...] = (
    Field("schema_version", "integer", "Version of this schema: 1.", required=True, choices=(str(SCHEMA_VERSION),)),
    Field("id", "text", "The file's name without .toml.", required=True),
    Field("aliases", "texts", "Short names."),
    Field("name", "text", "What its owner calls it.", required=True),
    Field("chips", "texts", "Ids of the chips that it is built of.", required=True),
    Field("notes", "texts", "What to know of it."),
    *_source_fields(),
    Field("node.chips", "figure", "Chips in one node.", "count"),
    Field("node.nics", "figure", "Network cards in one node.", "count"),
    Field("scale_up.domain_chips", "figure", "Chips joined by the scale-up link.", "count"),
    Field("scale_up.topology", "text", "How.", choices=TOPOLOGIES),
    Field("scale_up.one_way_per_chip", "figure", "What one chip can send, all ports together; where it is not that of the "
          "chip's own file.", "byte/s"),
    Field("scale_up.peer_one_way", "figure", "What one chip can send to one other chip.", "byte/s"),
    Field("scale_up.shape", "integers", "Chips along each dimension of the largest torus."),
    Field("scale_up.wrap_multiple", "integer", "A slice wraps around along a dimension whose length this divides."),
    Field("scale_up.note", "text", "As the source describes it."),
    Field("scale_out.one_way_per_chip", "figure", "Network rate of one chip.", "byte/s"),
    Field("scale_out.levels", "figure", "Switch levels.", "count"),
    Field("scale_out.oversubscription", "text", "As the source prints it, level by level."),
    Field("scale_out.topology", "text", "As the source describes it."),
    Field("scale_out.shape", "text", "Kind of network.",
          choices=("fat_tree", "torus2d", "torus3d", "dragonfly", "switch", "other", "unknown")),
    Field("tiers.*.chips", "figure", "Chips of one domain of this tier, as many as meet without leaving it; none: the whole "
          "cluster. Tiers stand outside of the scale-up domain, from the smallest.", "count", required=True),
    Field("tiers.*.wire", "text", "Id of the file in links/."),
    Field("tiers.*.one_way_per_chip", "figure", "What one chip can send across this tier while all others do the same.",
          "byte/s"),
    Field("tiers.*.oversubscription", "figure", "Rate that enters the tier over the rate that it carries: 7 for 7:1.",
          "times"),
    Field("tiers.*.latency", "figure", "One message of no bytes across this tier, end to end.", "s"),
    Field("tiers.*.in_network_reduction", "flag", "Its switches add up."),
    Field("tiers.*.note", "text", "As the source describes it."),
    Field("size.max_chips", "figure", "Largest size built or announced.", "count"),
    Field("reliability.failure_rate_per_chip", "figure", "Unplanned interruptions of a job for each of its chips and time, "
          "whatever failed.", "Hz"),
    Field("reliability.failures_observed", "figure", "How many interruptions that rate was counted from.", "count"),
    Field("reliability.detection", "figure", "From a failure until it is known and located.", "s"),
    Field("reliability.restart", "figure", "From then until the job trains again, work done twice aside.", "s"),
    Field("reliability.checkpoint_bandwidth", "figure", "Rate at which the cluster's storage takes checkpoints.", "byte/s"),
    Field("reliability.rack_chips", "figure", "Chips that fail together where a rack fails.", "count"),
)  # fmt: skip

SCHEMAS: dict[str, tuple[Field, ...]] = {
    "chips": CHIP_FIELDS,
    "platforms": PLATFORM_FIELDS,
    "links": LINK_FIELDS,
    "clusters": CLUSTER_FIELDS,
}


@dataclass(frozen=True)
class Node:
    """A table of the file: its named children, what a free name leads to, or the field that ends here."""

    children: dict[str, "Node"]
    field: Field | None = None

    @property
    def wildcard(self) -> "Node | None":
        return self.children.get("*")


@cache
def tree(schema: str) -> Node:
    """The fields of "chips", "platforms", "links" or "clusters" as nested tables."""
    root = Node({})
    for field in SCHEMAS[schema]:
        node = root
        *tables, last = field.path.split(".")
        for name in tables:
            node = node.children.setdefault(name, Node({}))
        node.children[last] = Node({}, field)
    return root
