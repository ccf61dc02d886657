"""Loads the plugins into the registry of TensorRT's lean runtime, in a process of its own, and looks at all of them.

    lean_worker.py LIBRARY

reads {"creators": [{"name", "version", "namespace", "fields": {name: int, float or list}}]} from standard input and
writes a line for each creator: what the registry and the plugin say. TensorRT's Python has no methods of a plugin that
was written in C++, so these are called by their places in its tables: a third view of the interface, beside the one in
plugins/abi and the one in TensorRT.
"""

import ctypes
import json
import sys

# Places in the tables of virtual functions. Four belong to every interface: its language, its kind, two destructors.
KIND, CAPABILITY, CLONE = 1, 4, 5
NAMES = {"name": 4, "version": 5, "namespace": 6}  # IPluginV3OneCore
CREATE, FIELDS = 4, 5  # IPluginCreatorV3One
OUTPUTS, TIMING_ID = 8, 12  # IPluginV3OneBuild
ATTACH, SERIALISE = 7, 8  # IPluginV3OneRuntime
DESTROY = 3


class Field(ctypes.Structure):
    """PluginField."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    ]


class Collection(ctypes.Structure):
    """PluginFieldCollection."""

    _fields_ = [("count", ctypes.c_int32), ("fields", ctypes.POINTER(Field))]


class Info(ctypes.Structure):
    """InterfaceInfo."""

    _fields_ = [("kind", ctypes.c_char_p), ("major", ctypes.c_int32), ("minor", ctypes.c_int32)]


INT32, FLOAT32 = 5, 1
_ELEMENTS = {INT32: ctypes.c_int32, FLOAT32: ctypes.c_float}


def call(pointer, slot, result, *arguments):
    """Call a virtual function; an argument is (type, value)."""
    table = ctypes.cast(pointer, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
    function = ctypes.CFUNCTYPE(result, ctypes.c_void_p, *(t for t, _ in arguments))(table[slot])
    return function(pointer, *(v for _, v in arguments))


def collection_of(fields):
    """Fields as the parser makes them, and what keeps them alive."""
    kept, list_ = [], (Field * len(fields))()
    for entry, (name, value) in zip(list_, fields.items()):
        values = value if isinstance(value, list) else [value]
        kind = FLOAT32 if isinstance(values[0], float) else INT32
        array = (_ELEMENTS[kind] * len(values))(*values)
        kept.append((name.encode(), array))
        entry.name, entry.data = kept[-1][0], ctypes.cast(array, ctypes.c_void_p)
        entry.type, entry.length = kind, len(values)
    return Collection(len(fields), list_), kept


def fields_of(pointer):
    """What a PluginFieldCollection holds: name -> value."""
    collection = ctypes.cast(pointer, ctypes.POINTER(Collection))[0]
    fields = {}
    for field in collection.fields[: collection.count]:
        values = ctypes.cast(field.data, ctypes.POINTER(_ELEMENTS[field.type]))[: field.length]
        fields[field.name.decode()] = values if len(values) > 1 else values[0]
    return fields


def look_at(pointer):
    """All sides of a plugin."""
    core, build, runtime = (call(pointer, CAPABILITY, ctypes.c_void_p, (ctypes.c_int32, side)) for side in range(3))
    return {
        "kinds": [call(side, KIND, Info).kind.decode() for side in (pointer, core, build, runtime)],
        **{key: call(core, slot, ctypes.c_char_p).decode() for key, slot in NAMES.items()},
        "outputs": call(build, OUTPUTS, ctypes.c_int32),
        "timing_id": call(build, TIMING_ID, ctypes.c_char_p).decode(),
        "fields": fields_of(call(runtime, SERIALISE, ctypes.c_void_p)),
    }


def life(creator, fields):
    """A plugin as it is made for building, its clone, what an engine makes of it, and what a context gets."""
    collection, _kept = collection_of(fields)

    def create(fields, phase):
        return call(
            creator,
            CREATE,
            ctypes.c_void_p,
            (ctypes.c_char_p, b"node"),
            (ctypes.c_void_p, ctypes.addressof(fields)),
            (ctypes.c_int32, phase),
        )

    def serialised(plugin):
        runtime = call(plugin, CAPABILITY, ctypes.c_void_p, (ctypes.c_int32, 2))
        return Collection.from_address(call(runtime, SERIALISE, ctypes.c_void_p))

    built = create(collection, 0)
    if not built:
        return None
    clone = call(built, CLONE, ctypes.c_void_p)
    seen = [look_at(built)]
    call(built, DESTROY, None)
    seen.append(look_at(clone))
    loaded = create(serialised(clone), 1)
    call(clone, DESTROY, None)
    seen.append(look_at(loaded))
    runtime = call(loaded, CAPABILITY, ctypes.c_void_p, (ctypes.c_int32, 2))
    attached = call(runtime, ATTACH, ctypes.c_void_p, (ctypes.c_void_p, None))
    call(loaded, DESTROY, None)
    seen.append(look_at(attached))
    call(attached, DESTROY, None)
    return seen


def main() -> None:
    """Load, look, print."""
    import tensorrt_lean as trt

    registry = trt.get_plugin_registry()
    assert registry.load_library(sys.argv[1]) is not None
    count = ctypes.c_int32()
    library = ctypes.CDLL(sys.argv[1])  # it is loaded: the same creators
    library.getCreators.restype = ctypes.POINTER(ctypes.c_void_p)
    pointers = library.getCreators(ctypes.byref(count))[: count.value]
    for asked in json.load(sys.stdin)["creators"]:
        creator = registry.get_creator(asked["name"], asked["version"], asked["namespace"])
        found = {"found": creator is not None, "version": trt.__version__}
        if creator is not None:
            key = (creator.name, creator.plugin_version, creator.plugin_namespace)
            found["names"] = [f.name for f in creator.field_names]
            found["made"] = type(creator).__name__
            (pointer,) = (p for p in pointers if tuple(call(p, s, ctypes.c_char_p).decode() for s in (6, 7, 8)) == key)
            found["life"] = life(pointer, asked["fields"])
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
