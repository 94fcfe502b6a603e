#include "device/device_table.hpp"

#include <algorithm>
#include <bit>
#include <initializer_list>
#include <stdexcept>

namespace rowwise {

namespace {

constexpr int kMostLanes = 32;
constexpr std::size_t kAlignment = 16;

// Hands out parts of a piece of memory, one after the other; with none, counts their bytes.
class Parts {
  public:
    explicit Parts(void* memory) : memory_(static_cast<char*>(memory)) {}
    std::size_t bytes() const { return used_; }

    template <class T>
    T* take(std::size_t count) {
        T* part = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
        used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
        return part;
    }

  private:
    char* memory_;
    std::size_t used_ = 0;
};

// Where a clock's arrays lie in memory for so many steps. The sums are there twice.
ClockView parted(ClockView clock, Parts& parts, uint32_t capacity) {
    const std::size_t near = std::size_t{clock.horizon} + 1, all = std::size_t{capacity} + 1;
    clock.recent = parts.take<LaggedUpdate>(near);
    clock.sums = parts.take<HorizonSum>(2 * near);
    clock.steps = parts.take<StepRecord>(all);
    clock.decay = parts.take<RunningProduct>(all);
    clock.total = parts.take<double>(clock.unbounded ? all : 0);
    clock.closed = parts.take<Coefficients>(clock.closes() ? all : 0);
    clock.ratio_powers = parts.take<double>(kPowers);
    clock.slot_powers = parts.take<double>(clock.slots * kPowers);
    return clock;
}

bool is_wide(std::initializer_list<const void*> arrays) {
    return std::all_of(arrays.begin(), arrays.end(), [](const void* array) {
        return reinterpret_cast<std::uintptr_t>(array) % kAlignment == 0;
    });
}

}  // namespace

DeviceTable::DeviceTable(std::shared_ptr<Engine> engine, int64_t rows, int64_t dim, float* weights,
                         RowState* states, Trouble* trouble, volatile uint32_t* alarm, void* stream)
    : engine_(std::move(engine)), trouble_(trouble), alarm_(alarm),
      clock_(std::make_unique<Clock>(LagParams{})) {
    if (rows < 1 || dim < 1 || rows >= int64_t{1} << 32)
        throw std::invalid_argument("a table has 1 to 2**32 - 1 rows of 1 number or more");
    view_.weights = weights;
    view_.states = states;
    view_.rows = rows;
    view_.dim = view_.slot_dim = dim;
    const Trouble none{kNoTrouble, 0, 0, 0, 0};
    engine_->upload(trouble_, &none, sizeof none, stream);
    std::fill_n(alarm_, 1 + kOpenSteps, 0);
}

void DeviceTable::set_rule(const TrainingRule& rule, const std::vector<float*>& slots,
                           bool slots_pristine) {
    if (slots.size() > kSlots || rule.slot_starts.size() != slots.size())
        throw std::invalid_argument("a rule has at most 3 slots, each with a start");
    auto clock = std::make_unique<Clock>(rule.lag);
    rule_ = rule.rule;
    clock_ = std::move(clock);
    advances_ = rule.advances;
    std::copy(slots.begin(), slots.end(), view_.slots);
    view_.slot_dim = has_row_slots(rule_.family) ? 1 : view_.dim;
    view_.slots_pristine = slots_pristine;
    capacity_ = 0;
}

std::size_t DeviceTable::clock_bytes(uint32_t capacity) const {
    Parts parts(nullptr);
    parted(clock_->view(), parts, capacity);
    return parts.bytes();
}

std::size_t DeviceTable::clock_bytes(const LagParams& lag, uint32_t capacity) {
    Parts parts(nullptr);
    parted(Clock(lag).view(), parts, capacity);
    return parts.bytes();
}

void DeviceTable::place_clock(void* memory, uint32_t capacity, void* stream) {
    const ClockView here = clock_->view();
    if (here.now > capacity) throw std::invalid_argument("no room for the clock's steps");
    Parts parts(memory);
    placed_ = parted(here, parts, capacity);
    capacity_ = capacity;
    const auto copy = [&](auto* to, const auto* from, std::size_t count) {
        if (count != 0)
            engine_->upload(const_cast<void*>(static_cast<const void*>(to)), from,
                            count * sizeof *from, stream);
    };
    const std::size_t near = std::size_t{here.horizon} + 1, all = std::size_t{here.now} + 1;
    copy(placed_.recent, here.recent, near);
    copy(placed_.sums, here.sums, near);
    copy(placed_.sums + near, here.sums, near);
    copy(placed_.steps, here.steps, all);
    copy(placed_.decay, here.decay, all);
    copy(placed_.total, here.total, here.unbounded ? all : 0);
    copy(placed_.closed, here.closed,
         here.closes() && here.now >= here.horizon ? all - here.horizon : 0);
    copy(placed_.ratio_powers, here.ratio_powers, kPowers);
    copy(placed_.slot_powers, here.slot_powers, static_cast<std::size_t>(here.slots) * kPowers);
}

void DeviceTable::restore(const StepHistory& history) {
    clock_->restore(history);
    capacity_ = 0;
}

DeviceCall DeviceTable::begin(const DeviceBatch& batch) {
    if (batch.n < 0 || batch.n >= int64_t{1} << 32 || batch.bags >= int64_t{1} << 32)
        throw std::invalid_argument("a batch has at most 2**32 - 1 ids and bags");
    DeviceCall call{};
    call.table = view_;
    call.clock = placed_;
    call.clock.now = clock_->now();
    call.clock.decays = clock_->view().decays;
    call.hyper = rule_.hyper;
    call.steps = steps;
    call.advances = advances_;
    call.known_skipped = known_skipped_;
    call.key = static_cast<uint64_t>(++calls_) << 32;
    call.trouble = trouble_;
    call.alarm = alarm_;
    call.made = alarm_ + 1;
    call.found_inf = batch.found_inf;
    call.others = batch.others;
    call.n = batch.n;
    call.batch = batch.batch;
    call.ids = batch.ids;
    call.sources = batch.sources;
    call.weights = batch.weights;
    call.gradients = batch.gradients;
    call.bags = batch.bags;
    call.skipped_row = batch.skipped_row;
    call.offsets = batch.offsets;
    call.out = batch.out;
    call.argmax = batch.argmax;
    call.blocks = batch.blocks;
    call.partials = batch.partials;
    return call;
}

void DeviceTable::launch(DeviceKernel kernel, const DeviceCall& call, int64_t items, int lanes,
                         void* stream) {
    if (items > 0) engine_->launch({kernel, rule_.family, false, items, lanes}, call, stream);
}

// A kernel whose lanes share out the numbers of a row.
void DeviceTable::launch_rows(DeviceKernel kernel, const DeviceCall& call, int64_t items,
                              void* stream) {
    const auto& [s0, s1, s2] = view_.slots;
    const bool wide = view_.dim % 4 == 0 &&
                      is_wide({view_.weights, s0, s1, s2, call.out, call.gradients, call.blocks});
    const int64_t packs = wide ? view_.dim / 4 : view_.dim;
    const int lanes = static_cast<int>(
        std::bit_ceil(static_cast<uint64_t>(std::min<int64_t>(packs, kMostLanes))));
    if (items > 0) engine_->launch({kernel, rule_.family, wide, items, lanes}, call, stream);
}

void DeviceTable::gather(const DeviceBatch& batch, void* stream) {
    launch_rows(DeviceKernel::gather, begin(batch), batch.n, stream);
}

void DeviceTable::gather_bags(const DeviceBatch& batch, void* stream) {
    launch_rows(DeviceKernel::gather_bags, begin(batch), batch.bags, stream);
}

void DeviceTable::gather_bags_max(const DeviceBatch& batch, void* stream) {
    launch_rows(DeviceKernel::gather_bags_max, begin(batch), batch.bags, stream);
}

void DeviceTable::bag_weight_gradient(const DeviceBatch& batch, void* stream) {
    const DeviceCall call = begin(batch);
    launch(DeviceKernel::bag_weight_partials, call, batch.n, kPartials, stream);
    launch(DeviceKernel::sum_partials, call, batch.n, 1, stream);
}

void DeviceTable::spread_max(const DeviceBatch& batch, void* stream) {
    launch_rows(DeviceKernel::spread_max, begin(batch), batch.n, stream);
}

void DeviceTable::read_slot(int slot, float* out, void* stream) {
    DeviceCall call = begin({});
    call.slot = slot;
    call.out = out;
    launch_rows(DeviceKernel::read_slot, call, view_.rows, stream);
}

void DeviceTable::sum_runs(const DeviceBatch& batch, void* stream) {
    const DeviceCall call = begin(batch);
    if (batch.n > kBlockSum) launch_rows(DeviceKernel::sum_blocks, call, batch.n, stream);
    launch_rows(DeviceKernel::sum_runs, call, batch.n, stream);
}

bool DeviceTable::restarts(const StepParams& params) const {
    return clock_->restarts_before(params.record());
}

void DeviceTable::update(const DeviceBatch& batch, const std::vector<StepParams>& choices,
                         void* stream) {
    if (choices.size() <= open_.size() || choices.size() > kOpenSteps)
        throw std::invalid_argument("a step's numbers for each of the open steps that it follows");
    const StepParams& params = choices.front();
    if (restarts(params)) {
        if (!open_.empty()) throw std::invalid_argument("the clock starts anew with open steps");
        materialize_all(stream);
    }
    DeviceCall call = begin(batch);
    for (std::size_t i = 0; i < choices.size(); ++i)
        call.choices[i] = {choices[i].rounded(rule_, 0), choices[i].record()};
    if (batch.n > kBlockSum && batch.blocks != nullptr)
        launch_rows(DeviceKernel::sum_blocks, call, batch.n, stream);
    if (has_row_slots(rule_.family))
        launch(DeviceKernel::square_partials, call, batch.n, kPartials, stream);
    launch_rows(DeviceKernel::update, call, batch.n, stream);
    launch(DeviceKernel::finish, call, std::max<int64_t>(batch.n, 1), 1, stream);
    if (batch.others != nullptr)
        launch(DeviceKernel::update_others, call, std::min(view_.rows, kStrided), 1, stream);
    ++steps;
    if (advances_) {
        const int64_t reach = std::min(clock_->now() + 1, clock_->horizon());
        launch(DeviceKernel::advance, call, reach, 1, stream);
        clock_->advance(params.record());
    }
    if (batch.found_inf != nullptr) {
        call.turn = turn_ = (turn_ + 1) & 0x7fffffff;  // twice it is a uint32_t, too
        launch(DeviceKernel::count_skipped, call, 1, 1, stream);
        Open open{turn_, {}};
        for (const StepParams& choice : choices) open.records.push_back(choice.record());
        open_.push_back(std::move(open));
    }
    if (advances_ && params.decay_factor <= 0) materialize_all(stream);
}

void DeviceTable::settle() {
    while (!open_.empty()) {
        const Open step = open_.front();
        const uint32_t told = alarm_[1 + step.turn % kOpenSteps];
        if (told / 2 != step.turn) return;
        open_.pop_front();
        if (told % 2 == 0) continue;
        --steps;
        ++known_skipped_;
        ++skipped_;
        for (Open& later : open_) later.records.erase(later.records.begin());
        if (!advances_) continue;
        rewind(clock_->now() - open_steps() - 1);
        for (const Open& later : open_) clock_->advance(later.records.front());
    }
}

void DeviceTable::rewind(uint32_t now) {
    StepHistory history = clock_->history();
    history.steps.resize(std::min<std::size_t>(now, history.steps.size()));
    const bool closes = clock_->view().closes() && history.steps.size() >= clock_->horizon();
    history.closed.resize(closes ? (history.steps.size() - clock_->horizon() + 1) * (kTerms + 1)
                                 : 0);
    clock_->restore(history);
}

void DeviceTable::materialize(const DeviceBatch& batch, void* stream) {
    const DeviceCall call = begin(batch);
    launch_rows(DeviceKernel::materialize, call, batch.n, stream);
    launch(DeviceKernel::record_current, call, batch.n, 1, stream);
}

void DeviceTable::write_rows(const DeviceBatch& batch, void* stream) {
    materialize(batch, stream);
    launch_rows(DeviceKernel::write_rows, begin(batch), batch.n, stream);
}

void DeviceTable::materialize_all(void* stream) {
    if (clock_->now() != 0) {
        const DeviceCall call = begin({});
        launch_rows(DeviceKernel::materialize, call, view_.rows, stream);
        launch(DeviceKernel::record_current, call, view_.rows, 1, stream);
    }
    clock_->restart();
}

std::optional<DeviceTable::Outside> DeviceTable::trouble(void* stream) {
    Trouble found{};
    engine_->download(&found, trouble_, sizeof found, stream);
    settle();
    if (found.key == kNoTrouble) return {};
    const Trouble none{kNoTrouble, 0, 0, 0, 0};
    engine_->upload(trouble_, &none, sizeof none, stream);
    *alarm_ = 0;
    known_skipped_ = 0;
    rewind(found.now);  // the device's arrays never took the later steps
    steps = found.steps;
    return Outside{static_cast<int64_t>(found.key >> 32),
                   static_cast<int64_t>(found.key & 0xffffffffu), found.id};
}

}  // namespace rowwise
