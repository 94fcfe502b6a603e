// The bindings of the index of ids.
#include "ids.hpp"

#include <nanobind/stl/pair.h>

#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "arrays.hpp"

namespace rowwise {
namespace {

// Integers (n,), or the bytes of strings with their offsets (n + 1,).
using Integers = Vector<const int64_t>;
using Strings = std::pair<Vector<const uint8_t>, Vector<const int64_t>>;
using Rows = Vector<int64_t>;

template <class T>
NewVector<T> array_of(std::vector<T> values) {
    auto* owned = new std::vector<T>(std::move(values));
    nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return {owned->data(), {owned->size()}, owner};
}

template <class T>
std::vector<T> vector_of(const Vector<const T>& array) {
    return {array.data(), array.data() + array.size()};
}

IdBatch batch_of(const Integers& ids) { return {{ids.data(), ids.size()}, nullptr, {}}; }

IdBatch batch_of(const Strings& ids) {
    const auto& [bytes, offsets] = ids;
    const int64_t* at = offsets.data();
    if (offsets.size() == 0 || at[0] != 0 ||
        at[offsets.size() - 1] != static_cast<int64_t>(bytes.size()))
        throw std::invalid_argument("offsets must go from 0 to the number of bytes");
    for (std::size_t i = 1; i < offsets.size(); ++i)
        if (at[i] < at[i - 1]) throw std::invalid_argument("offsets must ascend");
    return {{}, reinterpret_cast<const char*>(bytes.data()), {at, offsets.size()}};
}

using Parts = nb::typed<nb::dict, nb::str, nb::any>;

// Integers (n,), or the pair of bytes and offsets.
nb::object to_python(const IdList& ids) {
    if (!ids.strings) return nb::cast(array_of(ids.integers));
    std::vector<int64_t> offsets{0};
    for (const std::string& text : ids.texts)
        offsets.push_back(offsets.back() + static_cast<int64_t>(text.size()));
    std::vector<uint8_t> bytes(static_cast<std::size_t>(offsets.back()));
    for (std::size_t i = 0; i < ids.texts.size(); ++i)
        std::memcpy(bytes.data() + offsets[i], ids.texts[i].data(), ids.texts[i].size());
    return nb::make_tuple(array_of(std::move(bytes)), array_of(std::move(offsets)));
}

template <class Ids>
IdBatch checked_batch(const IdIndex& index, const Ids& ids, const Rows& rows) {
    const IdBatch batch = batch_of(ids);
    if (batch.strings() != index.strings())
        throw std::invalid_argument(index.strings() ? "the index holds strings"
                                                    : "the index holds integers");
    if (static_cast<int64_t>(rows.size()) != batch.size())
        throw std::invalid_argument("rows must hold one row per id");
    return batch;
}

template <class Ids>
void find(const IdIndex& index, const Ids& ids, const Rows& rows) {
    const IdBatch batch = checked_batch(index, ids, rows);
    const WithoutGil unlocked;
    index.find(batch, rows.data());
}

template <class Ids>
void observe(IdIndex& index, const Ids& ids, int64_t step, const Rows& rows,
             nb::typed<nb::list, nb::any> made) {
    const IdBatch batch = checked_batch(index, ids, rows);
    IdChanges changes;
    {
        const WithoutGil unlocked;
        changes = index.observe(batch, step, rows.data());
    }
    made.append(nb::make_tuple(
        array_of(std::move(changes.admitted_rows)), array_of(std::move(changes.admitted_keys)),
        array_of(std::move(changes.evicted_rows)), to_python(changes.evicted), changes.refused));
}

Parts state_of(const IdIndex& index) {
    IdIndex::State state;
    {
        const WithoutGil unlocked;
        state = index.state();
    }
    Parts parts;
    parts["ids"] = to_python(state.ids);
    parts["seen"] = array_of(std::move(state.seen));
    parts["counts"] = array_of(std::move(state.counts));
    parts["candidates"] = array_of(std::move(state.sightings.hashes));
    parts["candidate_counts"] = array_of(std::move(state.sightings.counts));
    parts["sketch"] = array_of(std::move(state.sightings.sketch));
    parts["since_halving"] = state.sightings.since_halving;
    parts["swept"] = state.swept;
    return parts;
}

template <class Ids>
void restore(IdIndex& index, const Ids& ids, const Vector<const int64_t>& seen,
             const Vector<const uint32_t>& counts, const Vector<const int64_t>& candidates,
             const Vector<const uint32_t>& candidate_counts, const Vector<const uint8_t>& sketch,
             int64_t since_halving, int64_t swept) {
    const IdBatch batch = batch_of(ids);
    IdIndex::State state;
    state.ids.strings = batch.strings();
    state.ids.resize(batch.size());
    for (int64_t i = 0; i < batch.size(); ++i) state.ids.set(i, batch, i);
    state.seen = vector_of(seen);
    state.counts = vector_of(counts);
    state.sightings = {vector_of(candidates), vector_of(candidate_counts), vector_of(sketch),
                       since_halving};
    state.swept = swept;
    const WithoutGil unlocked;
    index.restore(std::move(state));
}

template <class Ids, class Class>
void define(Class& index) {
    using namespace nb::literals;
    index
        .def("find", &find<Ids>, "ids"_a, "rows"_a,
             "Write the row of each id to rows (n,); an unknown row where it has none.")
        .def(
            "observe", &observe<Ids>, "ids"_a, "step"_a, "rows"_a, "made"_a,
            "Count a batch, evict and admit, then do as `find`.\n\n"
            "Append to the list `made`: admitted rows, their ids (of strings the hashes), evicted\n"
            "rows, their ids, and how many ids were due a row and got none.")
        .def("restore", &restore<Ids>, "ids"_a, "seen"_a, "counts"_a, "candidates"_a,
             "candidate_counts"_a, "sketch"_a, "since_halving"_a, "swept"_a,
             "Take up what `state` gave.");
}

}  // namespace

void bind_ids(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<IdIndex> index(m, "IdIndex");
    index.def(
        "__init__",
        [](IdIndex* self, int64_t capacity, int64_t unknown_rows, int64_t admit_after,
           bool by_count, int64_t ttl, int64_t evict_at_once, int64_t in_flight, bool strings) {
            new (self) IdIndex(
                {capacity, unknown_rows, admit_after, by_count, ttl, evict_at_once, in_flight},
                strings);
        },
        nb::kw_only(), "capacity"_a, "unknown_rows"_a, "admit_after"_a, "by_count"_a, "ttl"_a,
        "evict_at_once"_a, "in_flight"_a, "strings"_a);
    define<Integers>(index);
    define<Strings>(index);
    index.def("state", &state_of, "Return copies of all that the index holds.")
        .def("__len__", &IdIndex::size)
        .def_prop_ro("nbytes", &IdIndex::bytes, "Bytes of memory.");
}

}  // namespace rowwise
