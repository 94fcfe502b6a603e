// A table whose rows lie in a device's memory. The host keeps the clock and says which kernels run;
// it never waits for one, but where a comment says so.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "clock.hpp"
#include "device/engine.hpp"
#include "rule.hpp"
#include "table.hpp"

namespace rowwise {

// A batch in the device's memory; a kernel reads what its comment in device/kernels.hpp names.
struct DeviceBatch {
    int64_t n = 0, bags = 0;
    int64_t skipped_row = -1;  // that an update leaves out; the number of rows stands for none
    const int64_t *batch = nullptr, *ids = nullptr, *sources = nullptr, *offsets = nullptr;
    const float *weights = nullptr, *gradients = nullptr;
    float *out = nullptr, *blocks = nullptr, *partials = nullptr;
    int64_t* argmax = nullptr;
    const float *found_inf = nullptr, *others = nullptr;
};

// The memory is its owner's. Calls take a stream of the device, in whose order all of them happen;
// they are made by one thread at a time. Ids are checked by the kernels: see `trouble`.
class DeviceTable {
  public:
    // weights (rows, dim), states (rows,), `trouble` in the device's memory; alarm (1 +
    // kOpenSteps,) in the host's, where the device can write.
    DeviceTable(std::shared_ptr<Engine> engine, int64_t rows, int64_t dim, float* weights,
                RowState* states, Trouble* trouble, volatile uint32_t* alarm, void* stream);

    int64_t steps = 0;  // updates so far

    // Every row must be up to date; the clock must be placed anew.
    void set_rule(const TrainingRule& rule, const std::vector<float*>& slots, bool slots_pristine);
    Family family() const { return rule_.family; }

    // The clock's arrays on the device hold this many steps; `place_clock` copies them to memory of
    // `clock_bytes`, and is due before a step that `is_full` says there is no room for.
    std::size_t clock_bytes(uint32_t capacity) const;
    static std::size_t clock_bytes(const LagParams& lag, uint32_t capacity);
    void place_clock(void* memory, uint32_t capacity, void* stream);
    bool is_full() const { return advances_ && clock_->now() >= capacity_; }
    uint32_t capacity() const { return capacity_; }

    void gather(const DeviceBatch& batch, void* stream);
    void gather_bags(const DeviceBatch& batch, void* stream);
    void gather_bags_max(const DeviceBatch& batch, void* stream);
    void bag_weight_gradient(const DeviceBatch& batch, void* stream);
    void spread_max(const DeviceBatch& batch, void* stream);
    void read_slot(int slot, float* out, void* stream);
    void sum_runs(const DeviceBatch& batch, void* stream);
    // Makes one step; or skips it, if batch.found_inf is not 0, of which the host hears later.
    // Until then the step is open. choices[k]: its numbers if k of the open steps turn out to be
    // skipped.
    void update(const DeviceBatch& batch, const std::vector<StepParams>& choices, void* stream);
    // Takes up what is known by now of the open steps; waits for nothing.
    void settle();
    uint32_t open_steps() const { return static_cast<uint32_t>(open_.size()); }
    int64_t skipped() const { return skipped_; }  // steps so far, of which that is known
    // Whether an update brings every row up to date as well, for which there must be no trouble.
    bool restarts(const StepParams& params) const;
    void materialize(const DeviceBatch& batch, void* stream);
    void materialize_all(void* stream);
    void write_rows(const DeviceBatch& batch, void* stream);

    uint32_t now() const { return clock_->now(); }
    StepHistory history() const { return clock_->history(); }
    void restore(const StepHistory& history);  // the clock must be placed anew
    bool slots_pristine() const { return view_.slots_pristine; }
    void set_slots_pristine(bool pristine) { view_.slots_pristine = pristine; }

    int64_t calls() const { return calls_; }  // so far; the number of the last one
    // Whether an id outside the table is known of; it may show late.
    bool alarmed() const { return *alarm_ != 0; }
    // Waits for the device. The first id outside, if there was one: the call's number, the position
    // in its batch, and the id. From that call on nothing has changed, and the table is now as
    // before it.
    struct Outside {
        int64_t call, position, id;
    };
    std::optional<Outside> trouble(void* stream);

  private:
    // A step that may turn out to be skipped, with its records for each number skipped before it.
    struct Open {
        uint32_t turn;
        std::vector<StepRecord> records;
    };
    DeviceCall begin(const DeviceBatch& batch);
    // Forgets all but the clock's first `now` steps.
    void rewind(uint32_t now);
    void launch(DeviceKernel kernel, const DeviceCall& call, int64_t items, int lanes,
                void* stream);
    void launch_rows(DeviceKernel kernel, const DeviceCall& call, int64_t items, void* stream);

    std::shared_ptr<Engine> engine_;
    TableView view_{};
    Trouble* trouble_;
    volatile uint32_t* alarm_;
    std::deque<Open> open_;  // the clock and `steps` count them as made
    uint32_t turn_ = 0;
    uint32_t known_skipped_ = 0;  // since the last error
    int64_t skipped_ = 0;
    Rule rule_{};
    bool advances_ = false;
    std::unique_ptr<Clock> clock_;
    ClockView placed_{};
    uint32_t capacity_ = 0;
    int64_t calls_ = 0;
};

}  // namespace rowwise
