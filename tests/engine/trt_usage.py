"""Which classes and attributes of TensorRT's Python interface our code uses, out of its syntax.

TensorRT's objects have the type ``Any`` for us: no type checker sees a misspelt method, and most of
them only run on a machine with a GPU. So the types are followed here: an object of TensorRT is a
parameter annotated ``Any``, whose name says what it is (ANY), or comes from one of our functions that
returns ``Any`` (RETURNS), and more come out of its attributes (RESULTS). What the tables do not explain
is an error, so the list of uses is complete.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

PYTHON = "python"  # not TensorRT's
MODULE = ""

# Parameters and variables annotated Any, or containers of it: by function and name, or by name.
ANY = {
    "trt": MODULE,
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "create_context.config": "IRuntimeConfig",
    "registry": "IPluginRegistry",
    "logger": "ILogger",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "cache": "ITimingCache",
    "tensor": "ITensor",
    "tensors": "ITensor",
    "error": "ParserError",
    "severity": "ILogger.Severity",
    "dtype": "DataType",
    "process_debug_tensor.kind": "DataType",
    "process_debug_tensor.location": "TensorLocation",
    "_loggers": PYTHON,
    "content": PYTHON,
    "entry": PYTHON,
    "layer": PYTHON,
    "found": PYTHON,
    "ours": PYTHON,
    "outputs": PYTHON,
    "plan": PYTHON,
    "profiler": PYTHON,
    "torch": PYTHON,
    "_allocator": PYTHON,
}
# Our functions whose result is annotated with Any.
RETURNS: dict[str, str | tuple[str, ...]] = {
    "import_tensorrt": MODULE,
    "make_logger": "ILogger",
    "make_monitor": "IProgressMonitor",
    "parse": "OnnxParser",
    "layers_of": "ILayer",
    "configure": ("IBuilderConfig", PYTHON),
    "_read": "ITimingCache",
    "create_context": "IExecutionContext",
    "runtime_config": "IRuntimeConfig",
    "_deserialize": "ICudaEngine",
    "_deserialize_buffer": "ICudaEngine",
    "_logger": "ILogger",
    "described_layers": PYTHON,
    # Subclasses of TensorRT's interfaces, of which we use what we added.
    "make_debug_listener": PYTHON,
    "make_output_allocator": PYTHON,
    "make_profiler": PYTHON,
    "_make_allocator": PYTHON,
}
# Our function that calls the function it is given.
CALLS_ITS_SECOND_ARGUMENT = "call"
# Our classes that hold objects of TensorRT's, and members that are the same everywhere.
OWN: dict[str, dict[str, str]] = {
    "LoadedEngine": {"engine": "ICudaEngine", "runtime": "Runtime", "trt": MODULE},
}
MEMBERS = {"trt": MODULE, "context": "IExecutionContext"}
# What attributes and methods give, as far as it is used further: a class, or PYTHON.
RESULTS: dict[tuple[str, str], str] = {
    (MODULE, "__version__"): PYTHON,
    (MODULE, "__name__"): PYTHON,
    ("Builder", "get_plugin_registry"): "IPluginRegistry",
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("DataType", "name"): PYTHON,
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
    ("ICudaEngine", "create_runtime_config"): "IRuntimeConfig",
    ("ICudaEngine", "get_tensor_format"): "TensorFormat",
    ("ILayer", "get_output"): "ITensor",
    ("ILayer", "type"): "LayerType",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("INetworkDefinition", "get_layer"): "ILayer",
    ("INetworkDefinition", "get_output"): "ITensor",
    ("IPluginRegistry", "all_creators"): "IPluginCreatorV3One",
    ("ITensor", "dtype"): "DataType",
    ("LayerType", "name"): PYTHON,
    ("OnnxParser", "get_error"): "ParserError",
    ("ParserError", "desc"): PYTHON,
    ("ParserError", "local_function_stack"): PYTHON,
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
    ("Runtime", "get_plugin_registry"): "IPluginRegistry",
}


@dataclass
class Uses:
    """What was found.

    Attributes:
        attributes: class, "" for the module -> names.
        keywords: class and method -> names of arguments.
        dynamic: classes of which members are taken by a name that is computed.
        unexplained: places that the tables do not explain.
    """

    attributes: dict[str, set[str]] = field(default_factory=dict)
    keywords: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    dynamic: set[str] = field(default_factory=set)
    unexplained: list[str] = field(default_factory=list)

    def __or__(self, other: Uses) -> Uses:
        def joined(one: dict, two: dict) -> dict:  # type: ignore[type-arg]
            return {key: one.get(key, set()) | two.get(key, set()) for key in {**one, **two}}

        return Uses(
            joined(self.attributes, other.attributes),
            joined(self.keywords, other.keywords),
            self.dynamic | other.dynamic,
            self.unexplained + other.unexplained,
        )


def uses_of(path: Path) -> Uses:
    """The uses of one module."""
    visitor = _Visitor(path)
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor.found


@dataclass(frozen=True)
class _Class:
    """A class itself, not an object of it."""

    name: str


@dataclass(frozen=True)
class _Own:
    """An object of one of our classes in OWN."""

    name: str


Type = str | _Class | _Own | tuple[str, ...]


class _Visitor(ast.NodeVisitor):
    def __init__(self, path: Path) -> None:
        self.found = Uses()
        self._path = path
        self._scopes: list[dict[str, Type]] = [{}]
        self._members: dict[str, Type] = {}  # self.NAME
        self._class = ""

    # -- where variables come from ------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = node.args
        scope: dict[str, Type] = {}
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            scope[argument.arg] = self._annotated(argument.annotation, argument.arg, node)
        if "self" in scope and self._class in OWN:
            scope["self"] = _Own(self._class)
        if _is_any(node.returns) and node.name not in {*RETURNS, CALLS_ITS_SECOND_ARGUMENT}:
            self._complain(node, f"what does {node.name} return?")
        self._scopes.append(scope)
        for statement in [*node.decorator_list, *node.body]:
            self.visit(statement)
        self._scopes.pop()

    def _annotated(self, annotation: ast.expr | None, name: str, node: ast.stmt) -> Type:
        names = {
            part.id
            for part in ast.walk(annotation or ast.Constant(0))
            if isinstance(part, ast.Name)
        }
        if "Any" in names and "Callable" not in names:
            function = node.name if isinstance(node, ast.FunctionDef) else ""
            if f"{function}.{name}" in ANY:
                return ANY[f"{function}.{name}"]
            if name not in ANY:
                self._complain(node, f"what is {name}, annotated Any?")
            return ANY.get(name, PYTHON)
        own = names & OWN.keys()
        return _Own(own.pop()) if own and isinstance(annotation, ast.Name) else PYTHON

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            kind = self._type(base)
            if isinstance(kind, _Class):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef):
                        self._use(kind.name, member.name)
        before = self._class, self._members
        self._class, self._members = node.name, {}
        self.generic_visit(node)
        self._class, self._members = before

    def visit_Assign(self, node: ast.Assign) -> None:
        kind = self._type(node.value)
        for target in node.targets:
            self._assign(target, kind)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        name = (
            node.target.id
            if isinstance(node.target, ast.Name)
            else getattr(node.target, "attr", "")
        )
        if node.value is not None:
            self._type(node.value)
        self._assign(node.target, self._annotated(node.annotation, name, node))

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self._assign(node.target, self._type(node.value))

    def visit_For(self, node: ast.For) -> None:
        self._assign(node.target, self._type(node.iter))
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._assign(node.target, self._type(node.iter))
        for condition in node.ifs:
            self.visit(condition)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._type(node)

    visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_ListComp  # type: ignore[assignment]  # noqa: N815

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self._scopes[-1][node.name] = PYTHON
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            kind = self._type(item.context_expr)
            if item.optional_vars is not None:
                self._assign(item.optional_vars, kind)
        for statement in node.body:
            self.visit(statement)

    def _assign(self, target: ast.expr, kind: Type) -> None:
        if isinstance(target, ast.Name):
            self._scopes[-1][target.id] = kind
        elif isinstance(target, (ast.Tuple, ast.List)):
            kinds = kind if isinstance(kind, tuple) else (PYTHON,) * len(target.elts)
            for element, entry in zip(target.elts, kinds, strict=False):
                self._assign(element, entry)
        elif isinstance(target, ast.Attribute):
            if isinstance(target.value, ast.Name) and target.value.id == "self":
                self._members[target.attr] = kind
            else:
                self._type(target)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, kind)
        else:
            self._type(target)

    # -- what expressions are -----------------------------------------------------------------

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.expr) and not isinstance(node, ast.NamedExpr):
            self._type(node)
        else:
            super().visit(node)

    def _type(self, node: ast.expr) -> Type:
        """Type of an expression; everything in it is visited."""
        if isinstance(node, ast.Name):
            return next((s[node.id] for s in reversed(self._scopes) if node.id in s), PYTHON)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.NamedExpr):
            kind = self._type(node.value)
            self._assign(node.target, kind)
            return kind
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            for generator in node.generators:
                self.visit(generator)
            if isinstance(node, ast.DictComp):
                self._type(node.key)
                return self._type(node.value)
            return self._type(node.elt)
        if isinstance(node, ast.IfExp):
            self._type(node.test)
            return self._first([self._type(node.body), self._type(node.orelse)])
        if isinstance(node, ast.BoolOp):
            return self._first([self._type(value) for value in node.values])
        if isinstance(node, ast.Subscript):
            self._type(node.slice)
            return self._type(node.value)
        if isinstance(node, ast.Starred):
            return self._type(node.value)
        if isinstance(node, (ast.List, ast.Set)):
            return self._first([self._type(element) for element in node.elts])
        if isinstance(node, ast.Tuple):
            kinds = [self._type(element) for element in node.elts]
            return tuple(kind if isinstance(kind, str) else PYTHON for kind in kinds)
        for child in ast.iter_child_nodes(node):
            self.visit(child)
        return PYTHON

    @staticmethod
    def _first(kinds: Iterable[Type]) -> Type:
        return next((kind for kind in kinds if kind not in (PYTHON, ())), PYTHON)

    def _attribute(self, node: ast.Attribute) -> Type:
        if (
            isinstance(node.value, ast.Name)
            and node.value.id == "self"
            and node.attr in self._members
        ):
            return self._members[node.attr]
        kind = self._type(node.value)
        if isinstance(kind, _Own) and node.attr in OWN[kind.name]:
            return OWN[kind.name][node.attr]
        if kind == PYTHON or isinstance(kind, (_Own, tuple)):
            return MEMBERS.get(node.attr, PYTHON)
        if isinstance(kind, _Class):
            self._use(kind.name, node.attr)
            return PYTHON
        self._use(kind, node.attr)
        if kind == MODULE and (MODULE, node.attr) not in RESULTS:
            return _Class(node.attr)
        return RESULTS.get((kind, node.attr), f"{kind}.{node.attr}")

    def _use(self, kind: str, attribute: str) -> None:
        if "." in kind and kind != "ILogger.Severity":
            self._complain(None, f"what is {kind}, of which {attribute} is used?")
        self.found.attributes.setdefault(kind, set()).add(attribute)

    def _call(self, node: ast.Call) -> Type:
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self._type(argument)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in ("getattr", "hasattr"):
            return self._by_name(name, *node.args[:2])
        if name in ("reversed", "list", "tuple", "iter", "enumerate", "zip"):
            kinds = [self._type(argument) for argument in node.args]
            kind = self._first(kinds)
            return (PYTHON, kind) if name == "enumerate" and isinstance(kind, str) else kind
        function = self._type(node.func)
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
            owner = self._type(node.func.value)
            if name == CALLS_ITS_SECOND_ARGUMENT and isinstance(owner, _Own):
                called = self._type(node.args[1])
                return called.name if isinstance(called, _Class) else called
            if isinstance(owner, str) and owner not in (PYTHON, MODULE):
                named = {keyword.arg for keyword in node.keywords if keyword.arg}
                if named:
                    self.found.keywords.setdefault((owner, name), set()).update(named)
                return function
        if isinstance(function, _Class):
            return function.name
        if name in OWN:
            return _Own(name)
        return RETURNS.get(name, PYTHON)

    def _by_name(self, function: str, owner: ast.expr, attribute: ast.expr) -> Type:
        """getattr or hasattr."""
        kind = self._type(owner)
        if kind == PYTHON or isinstance(kind, (_Own, tuple)):
            return PYTHON
        if isinstance(attribute, ast.Constant):
            return self._attribute(ast.Attribute(owner, str(attribute.value)))
        self.found.dynamic.add(kind.name if isinstance(kind, _Class) else kind)
        return PYTHON

    def _complain(self, node: ast.AST | None, text: str) -> None:
        line = f":{node.lineno}" if isinstance(node, ast.stmt) else ""
        self.found.unexplained.append(f"{self._path.name}{line}: {text}")


def _is_any(annotation: ast.expr | None) -> bool:
    """Whether an annotation is Any, or a sequence or choice of it."""
    if isinstance(annotation, ast.BinOp):
        return _is_any(annotation.left) or _is_any(annotation.right)
    if isinstance(annotation, ast.Subscript):
        container, parts = annotation.value, annotation.slice
        if isinstance(container, ast.Name) and container.id in ("tuple", "list", "Iterator"):
            return any(map(_is_any, parts.elts if isinstance(parts, ast.Tuple) else [parts]))
        return False
    return isinstance(annotation, ast.Name) and annotation.id == "Any"
