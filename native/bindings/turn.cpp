// A writer's turn in Python, which an interruption (Ctrl-C) never leaves taken.
#include <cstdint>
#include <utility>

#include "arrays.hpp"

namespace rowwise {

namespace {

// Python looks for interruptions between its own instructions, so never in here. Where it finds one
// between the call that takes the turn and the body of `with`, it drops this object.
class WriterTurn {
  public:
    WriterTurn(nb::object table, nb::object lock, bool changes_values)
        : table_(std::move(table)), lock_(std::move(lock)), changes_values_(changes_values) {}
    ~WriterTurn() {
        const nb::error_scope raised;  // the interruption, which goes on afterwards
        try {
            end();
        } catch (nb::python_error& error) {
            error.discard_as_unraisable("the end of a writer's turn");
        }
    }
    WriterTurn(const WriterTurn&) = delete;
    WriterTurn& operator=(const WriterTurn&) = delete;

    void begin() {
        lock_.attr("acquire")();
        taken_ = true;
    }

    void end() {
        if (!std::exchange(taken_, false)) return;
        if (changes_values_) table_.attr("version") = nb::cast<int64_t>(table_.attr("version")) + 1;
        lock_.attr("release")();
    }

  private:
    nb::object table_, lock_;  // native ones: no code of Python's runs in their methods
    const bool changes_values_;
    bool taken_ = false;
};

}  // namespace

void bind_turn(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<WriterTurn>(
        m, "WriterTurn",
        "A writer's turn: while `with` it, others that want the lock wait.\n\n"
        "At its end the table's version rises, if values changed. Interrupted, it ends.")
        .def(nb::init<nb::object, nb::object, bool>(), "table"_a, "lock"_a,
             "changes_values"_a = true)
        .def("__enter__", &WriterTurn::begin)
        .def(
            "__exit__", [](WriterTurn& turn, const nb::args&) { turn.end(); },
            nb::sig("def __exit__(self, *args: object) -> None"));
}

}  // namespace rowwise
