#include "table.hpp"

#include <algorithm>
#include <functional>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <utility>

namespace rowwise {

namespace {

void check_size(std::size_t size, int64_t expected, const char* message) {
    if (static_cast<int64_t>(size) != expected) throw std::invalid_argument(message);
}

void check_count(std::size_t count) {
    if (count >= std::size_t{1} << 32)
        throw std::invalid_argument("a batch has at most 2**32 - 1 ids and bags");
}

// A batch of bags, copied and checked but for the ids, of which `bad` is outside.
struct CheckedBags {
    CheckedIds ids;
    Buffer<int64_t> offsets;
    Floats weights;

    CheckedBags(const BagBatch& given, int64_t rows)
        : ids(given.ids, rows),
          offsets(checked_offsets(given.offsets, static_cast<int64_t>(given.ids.size()))) {
        if (!given.weights) return;
        weights = *given.weights;
        if (weights.size() != given.ids.size())
            throw std::invalid_argument("weights must hold one number per id");
    }

    Bags bags() const {
        return {ids.ids.data(), offsets.data(), weights.data(), ids.ids.size, offsets.size - 1};
    }
};

void require_inside(const CheckedIds& ids) {
    if (ids.bad >= 0) throw std::out_of_range("an id is outside the table");
}

// Whether a row was updated, or marked as trained: `_MARKED` in src/rowwise/store/_host.py.
bool is_trained(const RowState& state) {
    return state.update_count > 0 || (state.last_update[0] & state.last_update[1]) == UINT32_MAX;
}

int64_t count_of(const BagBatch& bags) {
    return bags.offsets.empty() ? 0 : static_cast<int64_t>(bags.offsets.size()) - 1;
}

}  // namespace

Table::Table(float* weights, RowState* states, int64_t rows, int64_t dim)
    : Table(nullptr, Storage::float32, states, rows, dim) {
    if (reinterpret_cast<std::uintptr_t>(weights) % alignof(float) != 0)
        throw std::invalid_argument("weights must be aligned to 4 bytes");
    view_.weights = weights;
}

Table::Table(uint16_t* weights, Storage storage, RowState* states, int64_t rows, int64_t dim)
    : clock_(std::make_unique<Clock>(LagParams{})) {
    if (reinterpret_cast<std::uintptr_t>(weights) % alignof(uint16_t) != 0 ||
        reinterpret_cast<std::uintptr_t>(states) % alignof(RowState) != 0)
        throw std::invalid_argument("weights and states must be aligned to 2 and to 4 bytes");
    if (rows < 1 || dim < 1 || rows >= int64_t{1} << 32)
        throw std::invalid_argument("a table has 1 to 2**32 - 1 rows of 1 number or more");
    view_.halves = weights;
    view_.storage = storage;
    view_.states = states;
    view_.rows = rows;
    view_.dim = view_.slot_dim = dim;
}

void Table::round_at_random(uint64_t seed) {
    const std::unique_lock hold(lock_);
    view_.rounds_at_random = true;
    view_.rounding_seed = seed;
}

// The arrays as kernels see them, with the number of updates so far.
TableView Table::view() const {
    TableView view = view_;
    view.steps = steps;
    return view;
}

void Table::set_weights(int64_t id, const float* values) {
    if (view_.storage == Storage::float32)
        std::copy_n(values, dim(), view_.weights + id * dim());
    else
        kernels().narrow(view_.storage, values, dim(), view_.halves + id * dim());
}

void Table::set_rule(const TrainingRule& rule, const std::vector<float*>& slots,
                     bool slots_pristine) {
    if (slots.size() > kSlots || rule.slot_starts.size() != slots.size())
        throw std::invalid_argument("a rule has at most 3 slots, each with a start");
    for (const float* slot : slots)
        if (reinterpret_cast<std::uintptr_t>(slot) % alignof(float) != 0)
            throw std::invalid_argument("slots must be aligned to 4 bytes");
    auto clock = std::make_unique<Clock>(rule.lag);
    const std::unique_lock hold(lock_);
    take_rule(rule, std::move(clock));
    slots_ = slots.size();
    std::copy(slots.begin(), slots.end(), view_.slots);
    view_.slot_dim = has_row_slots(rule.rule.family) ? 1 : dim();
    view_.slots_pristine = slots_pristine;
}

void Table::take_rule(const TrainingRule& rule, std::unique_ptr<Clock> clock) {
    rule_ = rule.rule;
    clock_ = std::move(clock);
    advances_ = rule.advances;
    slot_starts_ = rule.slot_starts;
    slot_names_ = rule.slot_names;
    ++rule_version_;
}

void Table::set_hyperparameters(const TrainingRule& rule) {
    auto clock = std::make_unique<Clock>(rule.lag);
    const std::unique_lock hold(lock_);
    if (rule.slot_names != slot_names_)
        throw std::invalid_argument("the rule has slots (" + rule.slot_names + "), the table (" +
                                    slot_names_ + ")");
    bring_up_to_date();
    take_rule(rule, std::move(clock));
    ++version;
}

int64_t Table::gather(Ids ids, std::span<float> out) const {
    check_size(out.size(), static_cast<int64_t>(ids.size()) * dim(),
               "out must hold one vector per id");
    const CheckedIds checked(ids, rows());
    if (checked.bad >= 0) return checked.bad;
    const std::shared_lock hold(lock_);
    kernels().gather(view(), rule_, *clock_, checked.ids.data(), checked.ids.size, out.data());
    return -1;
}

// Calls read(bags) beside other readers, unless an id is outside.
template <class Read>
int64_t Table::read(const BagBatch& bags, Read&& read) const {
    const CheckedBags checked(bags, rows());
    if (checked.ids.bad >= 0) return checked.ids.bad;
    const std::shared_lock hold(lock_);
    read(checked.bags());
    return -1;
}

int64_t Table::gather_bags(const BagBatch& bags, std::span<float> out) const {
    check_size(out.size(), count_of(bags) * dim(), "out must hold one vector per bag");
    return read(bags, [&](const Bags& checked) {
        kernels().gather_bags(view(), rule_, *clock_, checked, out.data());
    });
}

int64_t Table::gather_bags_max(const BagBatch& bags, std::span<float> out,
                               std::span<int64_t> argmax) const {
    check_size(out.size(), count_of(bags) * dim(), "out must hold one vector per bag");
    check_size(argmax.size(), count_of(bags) * dim(), "argmax must have the shape of out");
    return read(bags, [&](const Bags& checked) {
        kernels().gather_bags_max(view(), rule_, *clock_, checked, out.data(), argmax.data());
    });
}

int64_t Table::bag_weight_gradient(const BagBatch& bags, Floats gradients,
                                   std::span<float> out) const {
    check_size(gradients.size(), count_of(bags) * dim(), "gradients must hold one vector per bag");
    check_size(out.size(), static_cast<int64_t>(bags.ids.size()),
               "out must hold one number per id");
    return read(bags, [&](const Bags& checked) {
        kernels().bag_weight_gradient(view(), rule_, *clock_, checked, gradients.data(),
                                      out.data());
    });
}

std::vector<int64_t> Table::untrained(Ids ids) const {
    const CheckedIds checked(ids, rows());
    require_inside(checked);
    const std::shared_lock hold(lock_);
    std::vector<int64_t> positions;
    for (int64_t i = 0; i < checked.ids.size; ++i)
        if (!is_trained(view_.states[checked.ids[i]])) positions.push_back(i);
    return positions;
}

// The order of the sums is that of `mean_of_trained` in src/rowwise/_untrained.py.
std::vector<float> Table::mean_of_trained() const {
    const int64_t at_once = std::max<int64_t>(1, (int64_t{1} << 22) / dim());
    Buffer<int64_t> ids(std::min(at_once, rows()));
    Buffer<float> vectors(ids.size * dim());
    std::vector<double> total(dim()), sum(dim());
    int64_t count = 0, row = 0;
    while (row < rows()) {
        const std::shared_lock hold(lock_);
        int64_t n = 0;
        for (; row < rows() && n < ids.size; ++row)
            if (is_trained(view_.states[row])) ids[n++] = row;
        kernels().gather(view(), rule_, *clock_, ids.data(), n, vectors.data());
        std::fill(sum.begin(), sum.end(), 0.0);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t d = 0; d < dim(); ++d) sum[d] += double{vectors[i * dim() + d]};
        for (int64_t d = 0; d < dim(); ++d) total[d] += sum[d];
        count += n;
    }
    std::vector<float> mean;
    if (count)
        for (const double t : total)
            mean.push_back(static_cast<float>(t / static_cast<double>(count)));
    return mean;
}

void Table::read_slot(std::size_t slot, std::span<float> out) const {
    const std::shared_lock hold(lock_);
    check_size(out.size(), rows() * view_.slot_dim, "out must have the slot's shape");
    if (slot >= slots_) throw std::invalid_argument("no such slot");
    kernels().read_slot(view(), rule_, *clock_, static_cast<int>(slot), out.data());
}

BatchPlan Table::plan(Ids ids) const {
    check_count(ids.size());
    CheckedIds checked(ids, rows());
    require_inside(checked);
    const int64_t n = checked.ids.size;
    return {make_plan(std::move(checked.ids), rows()), n, rows()};
}

BatchPlan Table::plan_bags(const BagBatch& bags) const {
    check_count(bags.ids.size());
    check_count(bags.offsets.size());
    CheckedBags checked(bags, rows());
    require_inside(checked.ids);
    const Bags view = checked.bags();
    return {make_plan(std::move(checked.ids.ids), view, rows()), view.count, rows()};
}

RowGradients Table::sum_gradients(const BatchPlan& batch, Floats gradients, bool* finite) const {
    check_size(gradients.size(), batch.gradients * dim(), "gradients must hold one vector per bag");
    const Plan& plan = batch.plan;
    RowGradients rows{Buffer<int64_t>(plan.distinct()), Buffer<float>(plan.distinct() * dim())};
    std::copy(plan.ids.begin(), plan.ids.end(), rows.ids.begin());
    const bool all = kernels().sum_gradients(plan, dim(), gradients.data(), rows.sums.data());
    if (finite != nullptr) *finite = all;
    return rows;
}

RowGradients Table::gather_bags_max_gradient(const BagBatch& bags, std::span<const int64_t> argmax,
                                             Floats gradients) const {
    check_size(gradients.size(), count_of(bags) * dim(), "gradients must hold one vector per bag");
    check_size(argmax.size(), count_of(bags) * dim(), "argmax must have the shape of gradients");
    check_count(bags.ids.size());
    check_count(bags.offsets.size());
    CheckedBags checked(bags, this->rows());
    require_inside(checked.ids);
    const Buffer<uint32_t> bag_of = bag_of_each(checked.bags());
    const Plan plan = make_plan(std::move(checked.ids.ids), this->rows());
    RowGradients rows{Buffer<int64_t>(plan.distinct()), Buffer<float>(plan.distinct() * dim())};
    std::copy(plan.ids.begin(), plan.ids.end(), rows.ids.begin());
    kernels().gather_bags_max_gradient(plan, bag_of.data(), dim(), argmax.data(), gradients.data(),
                                       rows.sums.data());
    return rows;
}

int64_t Table::update(Ids ids, Floats gradients, const StepParams& params) {
    check_size(gradients.size(), static_cast<int64_t>(ids.size()) * dim(),
               "gradients must hold one vector per id");
    check_count(ids.size());
    CheckedIds checked(ids, rows());
    if (checked.bad >= 0) return checked.bad;
    step(make_plan(std::move(checked.ids), rows()), gradients, params);
    return -1;
}

void Table::update(const BatchPlan& batch, Floats gradients, const StepParams& params) {
    if (batch.rows != rows())
        throw std::invalid_argument("the bags were planned for a table of other rows");
    check_size(gradients.size(), batch.gradients * dim(), "gradients must hold one vector per bag");
    step(batch.plan, gradients, params);
}

void Table::update(const RowGradients& rows, const StepParams& params, int64_t frozen_row) {
    // With a gradient of zero the frozen row is brought up to date, and never lags behind.
    const int64_t n = rows.ids.size, all = frozen_row < 0 ? n : n + 1;
    Buffer<int64_t> ids(all);
    std::copy(rows.ids.begin(), rows.ids.end(), ids.begin());
    Buffer<float> copy;
    Floats gradients(rows.sums.data(), static_cast<std::size_t>(rows.sums.size));
    if (frozen_row >= 0) {
        ids[n] = frozen_row;
        copy = Buffer<float>(all * dim());
        std::fill(std::copy(gradients.begin(), gradients.end(), copy.begin()), copy.end(), 0.0f);
        gradients = {copy.data(), static_cast<std::size_t>(copy.size)};
    }
    CheckedIds checked({ids.data(), static_cast<std::size_t>(all)}, this->rows());
    require_inside(checked);
    step(make_plan(std::move(checked.ids), this->rows()), gradients, params, frozen_row);
    ++version;
}

Step StepParams::rounded(const Rule& rule, uint32_t last_step) const {
    Step step;
    step.learning_rate = static_cast<float>(learning_rate);
    step.decay_factor = static_cast<float>(decay_factor);
    step.scale = static_cast<float>(scale);
    step.gradient_scale = static_cast<float>(gradient_scale);
    step.epsilon = static_cast<float>(rule.hyper.exact_epsilon * epsilon_factor);
    step.iteration = iteration;
    step.last_step = last_step;
    return step;
}

void Table::step(const Plan& plan, Floats gradients, const StepParams& params, int64_t frozen_row) {
    const std::unique_lock hold(lock_);
    Buffer<float> frozen(frozen_row < 0 ? 0 : dim());
    RowState frozen_state{};
    if (frozen_row >= 0) {
        kernels().gather(view(), rule_, *clock_, &frozen_row, 1, frozen.data());
        frozen_state = view_.states[frozen_row];
    }
    Buffer<float> copy;
    gradients = apart(gradients, copy);
    if (clock_->restarts_before(params.record())) bring_up_to_date();
    const Step step = params.rounded(rule_, clock_->now() + (advances_ ? 1 : 0));
    kernels().update(view(), rule_, *clock_, step, plan, gradients.data());
    ++steps;
    if (advances_) {
        clock_->advance(params.record());
        if (params.decay_factor <= 0) bring_up_to_date();
    }
    if (frozen_row < 0) return;
    set_weights(frozen_row, frozen.data());
    RowState& state = view_.states[frozen_row];
    state = {state.last_step,
             frozen_state.update_count,
             {frozen_state.last_update[0], frozen_state.last_update[1]}};
}

// Returns values, or a copy of them where they lie in the table: a row that was written no longer
// holds what another row needs.
Floats Table::apart(Floats values, Buffer<float>& copy) const {
    const std::less<const float*> before;
    const auto lies_in = [&](const float* first, int64_t row_size) {
        return before(first, values.data() + values.size()) &&
               before(values.data(), first + rows() * row_size);
    };
    const auto lies_in_slot = [&](const float* slot) { return lies_in(slot, view_.slot_dim); };
    if (!(view_.weights && lies_in(view_.weights, dim())) &&
        std::none_of(view_.slots, view_.slots + slots_, lies_in_slot))
        return values;
    copy = Buffer<float>(static_cast<int64_t>(values.size()));
    std::copy(values.begin(), values.end(), copy.begin());
    return {copy.data(), values.size()};
}

void Table::materialize() {
    const std::unique_lock hold(lock_);
    bring_up_to_date();
    ++clocks;
}

void Table::bring_up_to_date() {
    if (clock_->now() != 0) kernels().materialize_all(view(), rule_, *clock_);
    clock_->restart();
}

int64_t Table::materialize(Ids ids) {
    check_count(ids.size());
    CheckedIds checked(ids, rows());
    if (checked.bad >= 0) return checked.bad;
    const Plan plan = make_plan(std::move(checked.ids), rows());
    const std::unique_lock hold(lock_);
    kernels().materialize(view(), rule_, *clock_, plan);
    return -1;
}

int64_t Table::renew(Ids ids, Floats starts) {
    check_size(starts.size(), static_cast<int64_t>(ids.size()) * dim(),
               "starts must hold one vector per id");
    const CheckedIds checked(ids, rows());
    if (checked.bad >= 0) return checked.bad;
    const std::unique_lock hold(lock_);
    Buffer<float> copy;
    starts = apart(starts, copy);
    for (int64_t i = 0; i < checked.ids.size; ++i) {
        const int64_t id = checked.ids[i];
        set_weights(id, starts.data() + i * dim());
        for (std::size_t slot = 0; slot < slots_; ++slot)
            std::fill_n(view_.slots[slot] + id * view_.slot_dim, view_.slot_dim,
                        slot_starts_[slot]);
        view_.states[id] = {clock_->now(), 0, {0, 0}};
    }
    return -1;
}

StepHistory Table::history() const {
    const std::shared_lock hold(lock_);
    return clock_->history();
}

void Table::restore(const StepHistory& history) {
    const std::unique_lock hold(lock_);
    clock_->restore(history);
}

bool Table::slots_pristine() const {
    const std::shared_lock hold(lock_);
    return view_.slots_pristine;
}

void Table::set_slots_pristine(bool pristine) {
    const std::unique_lock hold(lock_);
    view_.slots_pristine = pristine;
}

}  // namespace rowwise
