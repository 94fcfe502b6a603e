// The bindings of tables in a device's memory. Arrays are given by their addresses, as integers:
// their owner, a framework, keeps them alive.
#include "device/device_table.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>
#include <utility>

#include "arrays.hpp"
#include "history.hpp"

namespace rowwise {
namespace {

using Address = std::uintptr_t;
using Found = std::optional<std::tuple<int64_t, int64_t, int64_t>>;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

template <class T, T* DeviceBatch::* Member>
void def_address(nb::class_<DeviceBatch>& batch, const char* name, const char* doc) {
    batch.def_prop_rw(
        name, [](const DeviceBatch& own) { return reinterpret_cast<Address>(own.*Member); },
        [](DeviceBatch& own, Address address) { own.*Member = at<T>(address); }, doc);
}

void set_rule(DeviceTable& table, const Rule& rule, const std::vector<Address>& slots,
              std::vector<float> slot_starts, bool slots_pristine, bool advances, double ratio,
              double growth, int terms, bool unbounded, uint32_t horizon,
              std::vector<double> slot_decay, std::string slot_names) {
    std::vector<float*> data;
    for (const Address slot : slots) data.push_back(at<float>(slot));
    const LagParams lag{ratio, growth, terms, unbounded, horizon, std::move(slot_decay)};
    table.set_rule({rule, lag, std::move(slot_starts), advances, std::move(slot_names)}, data,
                   slots_pristine);
}

std::size_t clock_bytes_of(uint32_t capacity, double ratio, double growth, int terms,
                           bool unbounded, uint32_t horizon, std::vector<double> slot_decay,
                           const std::vector<float>& /*slot_starts*/, bool /*advances*/,
                           const std::string& /*slot_names*/) {
    return DeviceTable::clock_bytes(
        {ratio, growth, terms, unbounded, horizon, std::move(slot_decay)}, capacity);
}

// The text of the kernels: each file's name and content.
const std::vector<std::pair<std::string, std::string>> kTexts = {
#include "device_texts.inc"
};

// The class of a family in rules.hpp.
std::string class_of(Family family) {
    switch (family) {
#define ROWWISE_CASE(name, ...) \
    case Family::name: return #__VA_ARGS__;
        ROWWISE_FAMILIES(ROWWISE_CASE)
#undef ROWWISE_CASE
    }
    return {};
}

// Lets Python run while `call(table, ..., stream)` launches.
template <auto Call>
void on_stream(DeviceTable& table, const DeviceBatch& batch, Address stream) {
    const WithoutGil unlocked;
    (table.*Call)(batch, at<void>(stream));
}

}  // namespace

void bind_device(nb::module_& m) {
    using namespace nb::literals;

    nb::class_<Engine>(m, "Engine", "Runs the kernels of tables on a device.")
        .def(
            "has_kernels",
            [](const Engine& engine, const Rule& rule) { return engine.has_kernels(rule.family); },
            "rule"_a, "Return whether the kernels of a rule's family are there.")
        .def(
            "load_kernels",
            [](Engine& engine, const Rule& rule, const nb::bytes& binary) {
                engine.load_kernels(rule.family, {binary.c_str(), binary.size()});
            },
            "rule"_a, "binary"_a, "Load the compiled kernels of a rule's family.");
    m.attr("DEVICE_BLOCK") = kBlockSum;
    m.attr("DEVICE_PARTIALS") = kPartials;
    m.attr("DEVICE_OPEN_STEPS") = kOpenSteps;
    m.def(
        "device_texts", [] { return kTexts; },
        "Return the source of the device's kernels: (name, content) of each file; NVRTC compiles\n"
        "the last one.");
    m.def(
        "rule_class", [](const Rule& rule) { return class_of(rule.family); }, "rule"_a,
        "Return the class of a rule's family in that source.");
    m.def("serial_engine", &make_serial_engine, "order"_a = "forwards",
          "Return the engine that runs the device's kernels on this processor, item by item.\n\n"
          "order: forwards, backwards or shuffled; results have the same bits for each.");

    m.def("cuda_engine", &make_cuda_engine, "device"_a,
          "Return the engine of a GPU, by its number.\n\n"
          "Raises RuntimeError where there is no driver or no such GPU.");

    auto batch = nb::class_<DeviceBatch>(
        m, "DeviceBatch", nb::dynamic_attr(),
        "A batch in a device's memory, by addresses. `arrays` may hold what lies there.");
    batch.def(nb::init<>())
        .def_rw("n", &DeviceBatch::n, "Number of ids.")
        .def_rw("bags", &DeviceBatch::bags, "Number of bags.")
        .def_rw("skipped_row", &DeviceBatch::skipped_row,
                "A row that an update leaves out, or -1; the number of rows stands for none.");
    def_address<const int64_t, &DeviceBatch::batch>(batch, "batch", "(n,) ids.");
    def_address<const int64_t, &DeviceBatch::ids>(batch, "ids", "(n,) the same, ascending.");
    def_address<const int64_t, &DeviceBatch::sources>(
        batch, "sources", "(n,) which gradient each of ids gets; -1: none.");
    def_address<const int64_t, &DeviceBatch::offsets>(batch, "offsets", "(bags + 1,).");
    def_address<const float, &DeviceBatch::weights>(batch, "weights", "(n,), or 0.");
    def_address<const float, &DeviceBatch::gradients>(batch, "gradients", "(n or bags, dim).");
    def_address<float, &DeviceBatch::out>(batch, "out", "What is written.");
    def_address<float, &DeviceBatch::blocks>(batch, "blocks", "Working memory of sums.");
    def_address<float, &DeviceBatch::partials>(batch, "partials", "(n, 16) working memory.");
    def_address<int64_t, &DeviceBatch::argmax>(batch, "argmax", "(bags, dim).");
    def_address<const float, &DeviceBatch::found_inf>(batch, "found_inf",
                                                      "(1,) not 0: the step is skipped; or 0.");
    def_address<const float, &DeviceBatch::others>(
        batch, "others", "(1,) NaN: the gradient of all other rows; or 0.");

    nb::class_<DeviceTable>(
        m, "DeviceTable",
        "A table in a device's memory. Calls happen in the order of a stream; none waits for the\n"
        "device but `trouble`. See native/device/device_table.hpp.")
        .def(
            "__init__",
            [](DeviceTable* table, std::shared_ptr<Engine> engine, int64_t rows, int64_t dim,
               Address weights, Address states, Address trouble, Address alarm, Address stream) {
                new (table) DeviceTable(std::move(engine), rows, dim, at<float>(weights),
                                        at<RowState>(states), at<Trouble>(trouble),
                                        at<volatile uint32_t>(alarm), at<void>(stream));
            },
            "engine"_a, "rows"_a, "dim"_a, "weights"_a, "states"_a, "trouble"_a, "alarm"_a,
            "stream"_a)
        .def("set_rule", &set_rule, "rule"_a, "slots"_a, nb::kw_only(), "slot_starts"_a,
             "slots_pristine"_a, "advances"_a, "ratio"_a, "growth"_a, "terms"_a, "unbounded"_a,
             "horizon"_a, "slot_decay"_a, "slot_names"_a = "",
             "Update rows by `rule` from now on; every row must be up to date.")
        .def("clock_bytes", nb::overload_cast<uint32_t>(&DeviceTable::clock_bytes, nb::const_),
             "capacity"_a, "Return the bytes of the clock's arrays for so many steps.")
        .def_static("clock_bytes_of", &clock_bytes_of, "capacity"_a, nb::kw_only(), "ratio"_a,
                    "growth"_a, "terms"_a, "unbounded"_a, "horizon"_a, "slot_decay"_a,
                    "slot_starts"_a, "advances"_a, "slot_names"_a,
                    "Return the same for a rule that the table does not have yet: see `set_rule`.")
        .def(
            "place_clock",
            [](DeviceTable& table, Address memory, uint32_t capacity, Address stream) {
                const WithoutGil unlocked;
                table.place_clock(at<void>(memory), capacity, at<void>(stream));
            },
            "memory"_a, "capacity"_a, "stream"_a, "Copy the clock's arrays to the device.")
        .def_prop_ro("is_full", &DeviceTable::is_full,
                     "Whether the clock's arrays have no room for another step.")
        .def_prop_ro("capacity", &DeviceTable::capacity, "The steps that they have room for.")
        .def("gather", &on_stream<&DeviceTable::gather>, "batch"_a, "stream"_a,
             "Write the present vectors (n, dim) of rows batch (n,) to out; 0 for an id outside.")
        .def("gather_bags", &on_stream<&DeviceTable::gather_bags>, "batch"_a, "stream"_a,
             "Write each bag's weighted sum (bags, dim) to out.")
        .def("gather_bags_max", &on_stream<&DeviceTable::gather_bags_max>, "batch"_a, "stream"_a,
             "Write the largest of each bag's values to out, and its position to argmax.")
        .def("bag_weight_gradient", &on_stream<&DeviceTable::bag_weight_gradient>, "batch"_a,
             "stream"_a, "Write the gradients (n,) of the bags' weights to out.")
        .def("spread_max", &on_stream<&DeviceTable::spread_max>, "batch"_a, "stream"_a,
             "Write each position's part of a gradient of `gather_bags_max` to out (n, dim).")
        .def("sum_runs", &on_stream<&DeviceTable::sum_runs>, "batch"_a, "stream"_a,
             "Write the sum of each id's gradients to out (n, dim), where the id first stands.")
        .def("materialize", &on_stream<&DeviceTable::materialize>, "batch"_a, "stream"_a,
             "Bring rows ids (n,) up to date in place.")
        .def(
            "write_rows", &on_stream<&DeviceTable::write_rows>, "batch"_a, "stream"_a,
            "Bring rows ids (n,) up to date, then set them to their gradients (n, dim): for an id\n"
            "that stands twice, to the first.")
        .def(
            "read_slot",
            [](DeviceTable& table, int slot, Address out, Address stream) {
                const WithoutGil unlocked;
                table.read_slot(slot, at<float>(out), at<void>(stream));
            },
            "slot"_a, "out"_a, "stream"_a, "Write the present values of a slot to out.")
        .def("restarts", &DeviceTable::restarts, "params"_a,
             "Return whether an update brings every row up to date as well.")
        .def(
            "update",
            [](DeviceTable& table, const DeviceBatch& batch, const std::vector<StepParams>& choices,
               Address stream) {
                const WithoutGil unlocked;
                table.update(batch, choices, at<void>(stream));
            },
            "batch"_a, "choices"_a, "stream"_a,
            "Make one step of the whole table, or skip it if the batch's found_inf is not 0.\n\n"
            "choices: its numbers if 0, 1, ... of the open steps turn out to be skipped.")
        .def("settle", &DeviceTable::settle, "Take up what is known by now of the open steps.")
        .def_prop_ro("open_steps", &DeviceTable::open_steps,
                     "Steps of which it is not known yet whether they were skipped.")
        .def_prop_ro("skipped", &DeviceTable::skipped, "Steps that are known to be skipped.")
        .def(
            "materialize_all",
            [](DeviceTable& table, Address stream) {
                const WithoutGil unlocked;
                table.materialize_all(at<void>(stream));
            },
            "stream"_a, "Bring every row up to date in place, and start the clock anew.")
        .def(
            "step_history", [](const DeviceTable& table) { return arrays_of(table.history()); },
            "Return the clock's steps, see `Table.step_history`.")
        .def(
            "restore",
            [](DeviceTable& table, const GivenHistory& history) {
                table.restore(history_of(history));
            },
            "history"_a, "Take up what `step_history` gave; then place the clock.")
        .def_prop_ro("now", &DeviceTable::now, "Steps that the clock remembers.")
        .def_rw("steps", &DeviceTable::steps, "Updates so far.")
        .def_prop_rw("slots_pristine", &DeviceTable::slots_pristine,
                     &DeviceTable::set_slots_pristine,
                     "Whether slots of rows without an update hold what they start with.")
        .def_prop_ro("calls", &DeviceTable::calls, "Number of the last call.")
        .def_prop_ro("alarmed", &DeviceTable::alarmed,
                     "Whether an id outside the table is known of; it may show late.")
        .def(
            "trouble",
            [](DeviceTable& table, Address stream) -> Found {
                const WithoutGil unlocked;
                const auto found = table.trouble(at<void>(stream));
                if (!found) return {};
                return std::tuple{found->call, found->position, found->id};
            },
            "stream"_a,
            "Wait for the device. Return the call, position and id of the first id outside, or\n"
            "None; the table is then as before that call.");
}

}  // namespace rowwise
