// The module: memory, threads, kernels, random starts; the rest is bound in the files beside.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include "arrays.hpp"
#include "finite.hpp"
#include "kernels.hpp"
#include "plan.hpp"
#include "random.hpp"

namespace rowwise {
namespace {

NewVector<uint8_t> zeros(std::size_t bytes) {
    void* memory = allocate(bytes);
    if (memory == nullptr) throw std::bad_alloc();
    return {memory, {bytes}, owner_of<release>(memory, bytes)};
}

using GivenIds = std::optional<Vector<const int64_t>>;
using Fill = void (*)(float*, int64_t, int64_t, int64_t, const int64_t*, uint64_t, float, float);

template <Fill Fill>
void fill(const Matrix<float>& weights, uint64_t seed, float first, float second, int64_t first_id,
          const GivenIds& ids) {
    if (ids && ids->shape(0) != weights.shape(0))
        throw std::invalid_argument("ids must hold one id per row of weights");
    const WithoutGil unlocked;
    Fill(weights.data(), static_cast<int64_t>(weights.shape(0)),
         static_cast<int64_t>(weights.shape(1)), first_id, ids ? ids->data() : nullptr, seed, first,
         second);
}

}  // namespace
}  // namespace rowwise

// nanobind's macro defines the function that Python calls at import, here under another name: the
// one at the end of this file calls it.
#define PyInit__native init_native
NB_MODULE(_native, m) {
    using namespace rowwise;
    using namespace nb::literals;
    m.doc() = "rowwise's kernels; use rowwise.Table.";
    // A framework may keep a model, and with it a table, to the very end of the process: no leak.
    // The tests turn the warnings on.
    nb::set_leak_warnings(false);
    m.def("set_leak_warnings", &nb::set_leak_warnings, "warn"_a,
          "Set whether objects that outlive the interpreter are reported.");

    m.def("zeros", &zeros, "bytes"_a, "Return (bytes,) zeros, on huge pages where there are any.");
    m.def(
        "empty", [](std::size_t rows, std::size_t dim) { return new_array<float>(rows, dim); },
        "rows"_a, "dim"_a,
        "Return (rows, dim) numbers not yet written, in memory that is used again.");
    m.def(
        "first_nonfinite",
        [](const Array<const float>& values) {
            const WithoutGil unlocked;
            return first_nonfinite(span_of(values));
        },
        "values"_a, "Return the flat position of the first NaN or infinity, or -1.");
    m.def(
        "check_offsets",
        [](const Array<const int64_t>& offsets, int64_t n) {
            checked_offsets(span_of(offsets), n);
        },
        "offsets"_a, "n"_a, "Refuse offsets (bags + 1,) that do not ascend from 0 to n.");

    m.def("fill_uniform", &fill<&fill_uniform>, "weights"_a, "seed"_a, "low"_a, "high"_a,
          nb::kw_only(), "first_id"_a = 0, "ids"_a = nb::none(),
          "Fill weights (rows, dim) with uniform numbers in low..high.\n\n"
          "Row i gets the numbers of id first_id + i, or of ids[i] where ids (rows,) are given.\n"
          "They depend on (seed, id, column) alone: neither on the number of rows or threads nor\n"
          "on the processor, to the bit. Philox4x32-10 by counter.");
    m.def("fill_normal", &fill<&fill_normal>, "weights"_a, "seed"_a, "mean"_a, "deviation"_a,
          nb::kw_only(), "first_id"_a = 0, "ids"_a = nb::none(),
          "Fill weights (rows, dim) with normal numbers, within 6.3 deviations of the mean.\n\n"
          "As `fill_uniform`. The inverse distribution function is computed by +, -, *, / and the\n"
          "square root alone, so that every processor gives the same bits.");

    m.def("set_num_threads", &set_num_threads, "threads"_a,
          "Set how many threads the kernels use.");
    m.def("get_num_threads", &num_threads,
          "Return how many threads the kernels use: as set, or OMP_NUM_THREADS, or as many as the\n"
          "process may use processors.");
    m.def(
        "kernels", [] { return kernels().name; },
        "Return the name of the copy of the kernels in use.");
    m.def("select_kernels", &select_kernels, "name"_a,
          "Choose a copy of the kernels; return False where this processor does not run it.");
    bind_table(m);
    bind_device(m);
    bind_disk(m);
    bind_ids(m);
    bind_programs(m);
    bind_turn(m);
    bind_vectors(m);
    bind_word2vec(m);
}
#undef PyInit__native

// Of all interpreters of a process one has the types of this module: a second import would replace
// them while the first one uses them.
static int refuse_second_interpreter(PyObject*) {
    static std::atomic<int64_t> owner = -1;
    const int64_t here = PyInterpreterState_GetID(PyInterpreterState_Get());
    int64_t nobody = -1;
    if (owner.compare_exchange_strong(nobody, here) || owner == here) return 0;
    PyErr_SetString(PyExc_ImportError,
                    "rowwise is already imported in another interpreter of this process; "
                    "subinterpreters cannot share it: use threads or processes");
    return -1;
}

extern "C" NB_EXPORT PyObject* PyInit__native() {
    PyObject* module = init_native();
    if (module == nullptr) return nullptr;
    // nanobind's own steps, after the check. Python 3.13 calls this function in the main
    // interpreter, whoever imports, and the steps in the importing one.
    static std::vector<PyModuleDef_Slot> slots;
    auto* definition = reinterpret_cast<PyModuleDef*>(module);
    if (slots.empty()) {
        slots.push_back({Py_mod_exec, reinterpret_cast<void*>(&refuse_second_interpreter)});
        const PyModuleDef_Slot* theirs = definition->m_slots;
        while (theirs->slot != 0) slots.push_back(*theirs++);
        slots.push_back({0, nullptr});
        definition->m_slots = slots.data();
    }
    return module;
}
