#include "programs.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <new>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <unordered_map>

#include "finite.hpp"
#include "kernels.hpp"
#include "threads.hpp"

namespace rowwise {

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Returns what is thrown for an array of ids of which one is no row.
Failure bad_ids(const ProgramArray& ids) {
    const char* bytes = static_cast<const char*>(ids.data);
    return {Failure::Kind::ids,
            "",
            0,
            0,
            ids.dtype,
            {ids.shape.begin(), ids.shape.end()},
            {bytes, bytes + ids.size() * size_of(ids.dtype)}};
}

// The share of the checksum that pass number `pushed` of table `key` has, in [1/2, 1).
float share_of(int64_t key, int64_t pushed) {
    const uint64_t mixed = static_cast<uint64_t>(pushed) * 0x9E3779B97F4A7C15u +
                           static_cast<uint64_t>(key) * 0xBF58476D1CE4E5B9u;
    return 0.5f + static_cast<float>(mixed >> 41) * 0x1p-24f;
}

// Bags of the last axis of ids (..., length), with weights of the same shape or none.
struct BagArrays {
    Buffer<int64_t> ids, offsets;
    std::optional<Buffer<float>> weights;

    BagArrays(Buffer<int64_t> given, std::span<const int64_t> shape, const ProgramArray* of_each,
              std::span<const int64_t> wanted)
        : ids(std::move(given)) {
        if (!std::ranges::equal(shape, wanted))
            ids = repeated<int64_t>(span_of(ids), shape, wanted);
        const int64_t bags = count_of(wanted.first(wanted.size() - 1));
        offsets = Buffer<int64_t>(bags + 1);
        for (int64_t b = 0; b <= bags; ++b) offsets[b] = b * wanted.back();
        if (of_each != nullptr)
            weights = repeated<float>(FloatArray(*of_each).values, of_each->shape, wanted);
    }

    BagBatch batch() const {
        BagBatch bags{span_of(ids), span_of(offsets), {}};
        if (weights) bags.weights = span_of(*weights);
        return bags;
    }
};

void scale(float* values, int64_t n, double factor) {
    if (factor == 1) return;
    parallel(n, int64_t{1} << 15, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)  // in float64: float32 may not have the factor
            values[i] = static_cast<float>(values[i] * factor);
    });
}

RowGradients copy_of(const RowGradients& rows) {
    RowGradients copy{Buffer<int64_t>(rows.ids.size), Buffer<float>(rows.sums.size)};
    std::copy(rows.ids.begin(), rows.ids.end(), copy.ids.begin());
    std::copy(rows.sums.begin(), rows.sums.end(), copy.sums.begin());
    return copy;
}

RowGradients without(RowGradients rows, int64_t row, int64_t dim) {
    const auto* found = std::find(rows.ids.begin(), rows.ids.end(), row);
    if (row < 0 || found == rows.ids.end()) return rows;
    const int64_t i = found - rows.ids.begin();
    std::copy(rows.ids.begin() + i + 1, rows.ids.end(), rows.ids.begin() + i);
    std::copy(rows.sums.begin() + (i + 1) * dim, rows.sums.end(), rows.sums.begin() + i * dim);
    rows.ids.size -= 1;
    rows.sums.size -= dim;
    return rows;
}

// ---------------------------------------------------------------------- tables by key

struct Registry {
    std::mutex mutex;
    std::unordered_map<int64_t, std::weak_ptr<ProgramTable>> tables;
    int64_t made = 0;
};

Registry& registry() {  // never destroyed: a program may run to the very end of the process
    static auto* all = new Registry;
    return *all;
}

std::shared_ptr<ProgramTable> find(int64_t key) {
    const std::lock_guard hold(registry().mutex);
    const auto found = registry().tables.find(key);
    return found == registry().tables.end() ? nullptr : found->second.lock();
}

struct Method {
    const char* name;
    void (ProgramTable::*run)(const ProgramCall&);
    bool writes = false;  // to the table
};

constexpr std::array kMethods = {
    Method{"no_errors", nullptr},
    Method{"validate", &ProgramTable::validate},
    Method{"lookup", &ProgramTable::lookup},
    Method{"lookup_now", &ProgramTable::lookup_now},
    Method{"lookup_all", &ProgramTable::lookup_all},
    Method{"fill_untrained", &ProgramTable::fill_untrained},
    Method{"pool", &ProgramTable::pool},
    Method{"gradient_of_weights", &ProgramTable::gradient_of_weights},
    Method{"push_rows", &ProgramTable::push_rows},
    Method{"push_bags", &ProgramTable::push_bags},
    Method{"push_dense", &ProgramTable::push_dense},
    Method{"norm", &ProgramTable::norm},
    Method{"finite", &ProgramTable::finite},
    Method{"step", &ProgramTable::step, true},
    Method{"discard", &ProgramTable::discard},
};
static_assert(kMethods.size() == ProgramTable::kMethodCount);

}  // namespace

std::vector<std::string> ProgramTable::methods() {
    std::vector<std::string> names;
    for (const Method& method : kMethods) names.emplace_back(method.name);
    return names;
}

int ProgramTable::method(const std::string& name) {
    for (std::size_t i = 0; i < kMethods.size(); ++i)
        if (name == kMethods[i].name) return static_cast<int>(i);
    return -1;
}

std::shared_ptr<ProgramTable> ProgramTable::make(std::string path, int64_t lasting_key) {
    std::shared_ptr<ProgramTable> table;  // should memory be short, it goes once the lock is free
    const std::lock_guard hold(registry().mutex);
    const int64_t key = ++registry().made;
    if (lasting_key == 0) lasting_key = ++registry().made;
    table.reset(new ProgramTable(key, lasting_key, std::move(path)));
    registry().tables[key] = registry().tables[lasting_key] = table;
    return table;
}

ProgramTable::~ProgramTable() {
    const std::lock_guard hold(registry().mutex);
    for (const int64_t key : {key_, lasting_key_}) {
        const auto found = registry().tables.find(key);  // or it is another's by now
        if (found != registry().tables.end() && found->second.expired())
            registry().tables.erase(found);
    }
}

void ProgramTable::call(int64_t key, int method, const ProgramCall& call) {
    if (kMethods.at(method).run == nullptr) return no_errors(call);
    const std::shared_ptr<ProgramTable> table = find(key);
    if (table == nullptr) throw TableIsGone{};
    table->run(method, call);
}

void ProgramTable::run(int index, const ProgramCall& call) {
    const Method& method = kMethods.at(index);
    std::shared_ptr<ReentrantLock> turn;
    std::unique_lock<ReentrantLock> writing;
    std::shared_lock open(open_);
    while (method.writes && turn != turn_) {  // while waiting for a turn, the table may be another
        writing = {};
        turn = turn_;
        open.unlock();
        if (turn) writing = std::unique_lock(*turn);
        open.lock();
    }
    std::optional<Failure> failure;
    if (table_ == nullptr && method.run != &ProgramTable::validate) throw TableIsGone{};
    try {
        if (!failed() || call.raises || method.run == &ProgramTable::step ||
            method.run == &ProgramTable::discard)
            (this->*method.run)(call);
    } catch (Failure& refused) {
        failure = std::move(refused);
    } catch (const std::bad_alloc&) {
        failure = Failure{Failure::Kind::memory, path_ + ": no memory for a batch's gradients"};
    } catch (const std::exception& error) {
        failure = Failure{Failure::Kind::other, path_ + ": " + error.what()};
    }
    if (failure && (strict_ || call.raises)) raise(*failure);
    if (failure) record(std::move(*failure));
    if (!failed() || call.raises) return;
    if (method.run == &ProgramTable::step)
        write_token(call.out);
    else if (method.run != &ProgramTable::discard)
        std::memset(call.out.data, 0, call.out.size() * size_of(call.out.dtype));
}

// ---------------------------------------------------------------------- by the owner

void ProgramTable::bind(Table& table, std::shared_ptr<ReentrantLock> turn) {
    const std::unique_lock closed(open_);
    table_ = &table;
    turn_ = std::move(turn);
    rows_ = table.rows();
    current_rule_ = -1;  // it may have any
    mean_version_ = -1;
}

void ProgramTable::bind_rows(int64_t rows) {
    const std::unique_lock closed(open_);
    rows_ = rows;
}

void ProgramTable::close() {
    const std::unique_lock closed(open_);
    table_ = nullptr;
    turn_ = nullptr;
}

void ProgramTable::set_frozen_row(int64_t row) {
    const std::unique_lock closed(open_);
    frozen_row_ = row;
}

void ProgramTable::set_strict(int64_t capacity) {
    const std::unique_lock closed(open_);
    strict_ = true;
    capacity_ = capacity;
}

int64_t ProgramTable::add_rule(TrainingRule rule, StepFormula formula, bool supports_lazy) {
    const std::unique_lock closed(open_);
    rules_.push_back({std::move(rule), formula, supports_lazy});
    return static_cast<int64_t>(rules_.size()) - 1;
}

void ProgramTable::use_rule(int64_t rule) {
    const std::unique_lock closed(open_);
    rule_version_ = table().rule_version();
    current_rule_ = rule;
}

StepFormula ProgramTable::formula(int64_t rule) const {
    const std::shared_lock open(open_);
    return rules_.at(rule).formula;
}

int64_t ProgramTable::pop_changed_rule() {
    const std::unique_lock closed(open_);
    return std::exchange(changed_rule_, -1);
}

int64_t ProgramTable::version() const {
    const std::shared_lock open(open_);
    return table_ == nullptr ? 0 : table_->version % kVersions;
}

// The table, for its owner, who may have closed it.
Table& ProgramTable::table() const {
    if (table_ == nullptr) throw std::runtime_error(path_ + ": there is no table");
    return *table_;
}

void ProgramTable::record(Failure failure) {
    const std::lock_guard hold(mutex_);
    failures_.push_back(std::move(failure));
    fail();
}

void ProgramTable::raise(const Failure& failure) const {
    switch (failure.kind) {
        case Failure::Kind::ids: {
            std::vector<char> bytes = failure.bytes;
            throw std::out_of_range(
                text_of_bad_ids({failure.dtype, bytes.data(), failure.shape}, rows_));
        }
        case Failure::Kind::step:
            throw std::invalid_argument(
                path_ + ": a step's learning rate is " + std::to_string(failure.rate) +
                " and its number " + std::to_string(failure.iteration) +
                "; the rate must be finite and not negative (Ftrl's above 0), the number at least "
                "1");
        case Failure::Kind::untrained:
        case Failure::Kind::value: throw std::invalid_argument(failure.text);
        default: throw std::runtime_error(failure.text);
    }
}

std::vector<Failure> ProgramTable::pop_failures() {
    const std::lock_guard hold(mutex_);
    failed_ = false;
    return std::exchange(failures_, {});
}

// ---------------------------------------------------------------------- reading

void ProgramTable::no_errors(const ProgramCall& call) {
    bool good = true;
    for (const int64_t key : call.keys) {
        const std::shared_ptr<ProgramTable> table = find(key);
        good &= table == nullptr || !table->failed();
    }
    *static_cast<uint8_t*>(call.out.data) = good;
}

// Copies ids (...,) that are all rows.
Buffer<int64_t> ProgramTable::row_ids(const ProgramArray& ids) const {
    const int64_t n = ids.size();
    Buffer<int64_t> rows(n);
    if (ids.dtype == Dtype::boolean) throw bad_ids(ids);
    bool good = true;
    each_kind(ids, [&](auto read) {
        const double shared = first_shared(ids.dtype);
        for (int64_t i = 0; i < n; ++i) {
            const auto id = read(i);
            if constexpr (std::is_floating_point_v<decltype(id)>) {
                if (!(id >= 0 && id < shared && std::trunc(id) == id)) {  // a NaN, too
                    good = false;
                    return;
                }
            }
            rows[i] = static_cast<int64_t>(id);
            good &= static_cast<uint64_t>(rows[i]) < static_cast<uint64_t>(rows_);
        }
    });
    if (!good) throw bad_ids(ids);
    return rows;
}

// Refuses a token that is not that of the table as it is now.
void ProgramTable::check_version(const ProgramArray& token) const {
    const int64_t size = token.shape.back(), now = table_->version % kVersions;
    const FloatArray floats(token);
    const float* values = floats.values.data();
    for (int64_t i = 0; i < token.size(); i += size) {
        const bool present = values[i] == static_cast<float>(now);
        const int64_t turn = strict_ ? static_cast<int64_t>(values[i]) % kTurns : 0;
        const bool whole = token.dtype == Dtype::float32 &&
                           values[i + size - 1] == static_cast<float>(turn) &&
                           std::all_of(values + i + 1, values + i + size - 1,
                                       [](float value) { return value == 0; });
        if (present && whole) continue;
        const std::string was = std::to_string(static_cast<int64_t>(values[i]));
        if (!strict_ && whole)
            throw std::runtime_error("the state given is that of version " + was +
                                     " and the table is at " + std::to_string(now) +
                                     "; a table has one state, the present one");
        if (!strict_)
            throw std::runtime_error(
                "the train_step of this model has changed the state of this table, which is a "
                "token on JAX; optimizer.stateless_apply alone steps it. Look rows up in what it "
                "gave, or use rowwise.jax, or keras.layers.Embedding");
        throw std::runtime_error(
            (whole && std::trunc(values[i]) == values[i]
                 ? "the token given is that of version " + was + " and the table is at " +
                       std::to_string(now) + "; a table has one state, the present one. "
                 : std::string("the token given is none that the table has made. ")) +
            "embedding.token() gives the token after a write, a load or an error. In training it "
            "is that of the last step: what optax.apply_updates makes of the updates of "
            "rowwise.jax.optimizer, with no other optimizer for it, and nothing around that scales "
            "updates or drops them (for optax.MultiSteps there is rowwise.jax.multi_steps)");
    }
}

void ProgramTable::write_token(const ProgramArray& out) const {
    std::memset(out.data, 0, out.size() * sizeof(float));
    const int64_t now = table_->version % kVersions;
    auto* values = static_cast<float*>(out.data);
    values[0] = static_cast<float>(now);
    if (strict_) values[out.size() - 1] = static_cast<float>(now % kTurns);
}

void ProgramTable::validate(const ProgramCall& call) {
    const Buffer<int64_t> ids = row_ids(call.arguments[0]);
    std::copy(ids.begin(), ids.end(), static_cast<int32_t*>(call.out.data));
}

void ProgramTable::lookup(const ProgramCall& call) {
    check_version(call.arguments[0]);
    const Buffer<int64_t> ids = row_ids(call.arguments[1]);
    table_->gather(span_of(ids), floats_out(call.out));
}

void ProgramTable::lookup_now(const ProgramCall& call) {
    const Buffer<int64_t> ids = row_ids(call.arguments[0]);
    table_->gather(span_of(ids), floats_out(call.out));
}

void ProgramTable::lookup_all(const ProgramCall& call) {
    check_version(call.arguments[0]);
    Buffer<int64_t> ids(table_->rows());
    std::iota(ids.begin(), ids.end(), 0);
    const std::span<float> out = floats_out(call.out);
    const std::size_t whole = ids.size * table_->dim();
    table_->gather(span_of(ids), out.first(whole));
    for (std::size_t next = whole; next < out.size(); next += whole)  // one for each token
        std::copy_n(out.begin(), whole, out.begin() + next);
}

void ProgramTable::fill_untrained(const ProgramCall& call) {
    const ProgramArray &given = call.arguments[0], &vectors = call.arguments[1], &out = call.out;
    const std::span<const int64_t> shape = out.shape.first(out.shape.size() - 1);
    Buffer<int64_t> ids = row_ids(given);
    if (!std::ranges::equal(given.shape, shape))
        ids = repeated<int64_t>(span_of(ids), given.shape, shape);
    copy_repeated(vectors, out);
    const std::vector<int64_t> places = table_->untrained(span_of(ids));
    if (places.empty()) return;
    if (call.untrained == Untrained::error)
        throw Failure{Failure::Kind::untrained,
                      "row " + std::to_string(ids[places[0]]) + ", asked for at position " +
                          position_of(places[0], shape, false) +
                          ", was never trained; untrained='as-is', 'zeros' or 'mean' gives "
                          "something for it, and mark_trained says that it was given a value by "
                          "other means"};
    const std::vector<float> other =
        call.untrained == Untrained::mean ? mean_of_trained() : std::vector<float>(table_->dim());
    const std::vector<char> bytes = converted(other, out.dtype);
    for (const int64_t place : places)
        std::memcpy(static_cast<char*>(out.data) + place * bytes.size(), bytes.data(),
                    bytes.size());
}

// Returns the mean of the trained rows; a pass over the table after each write.
std::vector<float> ProgramTable::mean_of_trained() {
    const int64_t version = table_->version;
    {
        const std::lock_guard hold(mutex_);
        if (mean_version_ == version) return mean_;
    }
    std::vector<float> mean = table_->mean_of_trained();
    if (mean.empty())
        throw Failure{Failure::Kind::value,
                      "untrained='mean' needs trained rows, and none of this table was trained; "
                      "mark_trained says that rows were given values by other means"};
    const std::lock_guard hold(mutex_);
    mean_version_ = version;
    return mean_ = std::move(mean);
}

void ProgramTable::pool(const ProgramCall& call) {
    check_version(call.arguments[0]);
    const ProgramArray& ids = call.arguments[1];
    const ProgramArray* weights = call.arguments.size() > 2 ? &call.arguments[2] : nullptr;
    const BagArrays bags(row_ids(ids), ids.shape, weights,
                         with_last(call.out.shape, ids.shape.back()));
    table_->gather_bags(bags.batch(), floats_out(call.out));
}

void ProgramTable::gradient_of_weights(const ProgramCall& call) {
    const ProgramArray &ids = call.arguments[0], &gradients = call.arguments[1];
    const BagArrays bags(row_ids(ids), ids.shape, nullptr, call.out.shape);
    const Buffer<float> of_bags = repeated<float>(FloatArray(gradients).values, gradients.shape,
                                                  with_last(call.out.shape, table_->dim()));
    table_->bag_weight_gradient(bags.batch(), span_of(of_bags), floats_out(call.out));
}

// ---------------------------------------------------------------------- gradients that wait

ProgramTable::Pass ProgramTable::push(int64_t order, RowGradients gradients) {
    const std::shared_lock open(open_);
    table();
    return keep(order, std::move(gradients));
}

ProgramTable::Pass ProgramTable::keep(int64_t order, RowGradients gradients) {
    gradients = without(std::move(gradients), frozen_row_, table_->dim());
    const std::lock_guard hold(mutex_);
    if (static_cast<int64_t>(pending_.size()) == capacity_) {
        if (!strict_)
            throw std::runtime_error("the gradients of " + std::to_string(capacity_) +
                                     " lookups wait for a step; apply them first, or look rows up "
                                     "without taking gradients");
        pending_.erase(std::ranges::min_element(
            pending_, {}, [](const auto& entry) { return entry.second.order.second; }));
    }
    while (pending_.contains(1 + pushed_ % capacity_)) ++pushed_;
    const int64_t place = 1 + pushed_ % capacity_;
    ++pushed_;
    const float share = share_of(key_, pushed_);
    pending_[place] = {{order, pushed_}, std::move(gradients), share};
    return {place, kWhole * share};
}

void ProgramTable::push_for(const ProgramCall& call, RowGradients gradients, bool finite) {
    const auto order = static_cast<int64_t>(number(call.arguments[0]));
    const Pass pass = keep(order, std::move(gradients));
    const std::span<float> out = floats_out(call.out);
    std::fill(out.begin(), out.end(), 0.0f);
    out[pass.place] = kWhole;
    out.back() = finite ? pass.checksum : kNan;
}

// Keeps the sums of a batch's gradients, which are the call's fourth argument.
void ProgramTable::push_sums(const ProgramCall& call, const BatchPlan& batch) {
    const FloatArray gradients(call.arguments[3]);
    bool finite = true;
    RowGradients sums = table_->sum_gradients(batch, gradients.values, &finite);
    push_for(call, std::move(sums), finite);
}

void ProgramTable::push_rows(const ProgramCall& call) {
    check_version(call.arguments[1]);
    // The program may have left out the lookup, and with it the check.
    const Buffer<int64_t> ids = row_ids(call.arguments[2]);
    push_sums(call, table_->plan(span_of(ids)));
}

void ProgramTable::push_bags(const ProgramCall& call) {
    check_version(call.arguments[1]);
    const ProgramArray& ids = call.arguments[2];
    const ProgramArray* weights = call.arguments.size() > 4 ? &call.arguments[4] : nullptr;
    const BagArrays bags(row_ids(ids), ids.shape, weights, ids.shape);
    push_sums(call, table_->plan_bags(bags.batch()));
}

void ProgramTable::push_dense(const ProgramCall& call) {
    check_version(call.arguments[1]);
    const FloatArray gradient(call.arguments[2]);
    const int64_t rows = table_->rows(), dim = table_->dim();
    Buffer<int64_t> ids(rows);
    ids.size = 0;
    for (int64_t row = 0; row < rows; ++row) {
        const float* first = gradient.values.data() + row * dim;
        if (std::any_of(first, first + dim, [](float g) { return g != 0; })) ids[ids.size++] = row;
    }
    Buffer<float> sums(ids.size * dim);
    for (int64_t i = 0; i < ids.size; ++i)
        std::copy_n(gradient.values.data() + ids[i] * dim, dim, sums.data() + i * dim);
    const bool finite = first_nonfinite(span_of(sums)) < 0;
    push_for(call, {std::move(ids), std::move(sums)}, finite);
}

// Returns the gradients that wait, each weighted, in order; with distinct ids if so asked for. With
// `taken`, one gradient alone, of weight 1, that no step leaves waiting is moved instead of copied,
// and its place written there; `put_back` undoes it.
RowGradients ProgramTable::weighted(std::span<const float> weights, bool distinct, int64_t* taken) {
    if (static_cast<int64_t>(weights.size()) < capacity_ + 2)
        throw std::invalid_argument("weights of " + std::to_string(weights.size()) +
                                    " places, of which a token has " +
                                    std::to_string(capacity_ + 2) + " at least");
    const std::lock_guard hold(mutex_);
    std::vector<std::pair<std::pair<int64_t, int64_t>, int64_t>> used;
    int64_t missing = 0, ids = 0;
    const std::size_t end = weights.size() - 1;  // where the checksum is
    for (std::size_t place = 1; place < end; ++place) {
        if (weights[place] == 0) continue;  // a NaN is not zero
        const auto found = pending_.find(static_cast<int64_t>(place));
        if (found == pending_.end()) {
            ++missing;
            continue;
        }
        used.emplace_back(found->second.order, found->first);
        ids += found->second.gradients.ids.size;
    }
    if (missing && !(strict_ && weights.front() != 0))
        throw std::runtime_error(std::to_string(missing) +
                                 " of the gradients to be applied were computed before the "
                                 "table's last step; a table keeps gradients for one step" +
                                 (strict_
                                      ? ", and of lookups the latest " + std::to_string(capacity_) +
                                            " (more with Embedding(..., pending=))"
                                      : ". (Or the train_step has added something to the gradient "
                                        "of this table, which is a token on JAX)"));
    check_weights(weights);
    const auto factor = [&](int64_t place) { return double{weights[place]} / double{kWhole}; };
    if (used.size() == 1) {
        const int64_t place = used[0].second;
        const bool held = std::find(held_.begin(), held_.end(), place) != held_.end();
        RowGradients& own = pending_.at(place).gradients;
        if (taken && !held && factor(place) == 1) {
            *taken = place;
            return std::move(own);
        }
        RowGradients rows = copy_of(own);
        scale(rows.sums.data(), rows.sums.size, factor(place));
        return rows;
    }
    std::sort(used.begin(), used.end());
    const int64_t dim = table_->dim();
    RowGradients rows{Buffer<int64_t>(ids), Buffer<float>(ids * dim)};
    int64_t next = 0;
    for (const auto& [order, place] : used) {
        const RowGradients& one = pending_.at(place).gradients;
        std::copy(one.ids.begin(), one.ids.end(), rows.ids.data() + next);
        std::copy(one.sums.begin(), one.sums.end(), rows.sums.data() + next * dim);
        scale(rows.sums.data() + next * dim, one.sums.size, factor(place));
        next += one.ids.size;
    }
    if (distinct && ids)
        rows = table_->sum_gradients(table_->plan(span_of(rows.ids)), span_of(rows.sums));
    return rows;
}

void ProgramTable::put_back(int64_t place, RowGradients rows) {
    const std::lock_guard hold(mutex_);
    const auto found = pending_.find(place);
    if (found != pending_.end()) found->second.gradients = std::move(rows);
}

// Refuses weights that are no weighted sum of what passes gave.
void ProgramTable::check_weights(std::span<const float> weights) const {
    double expected = 0, size = 0;
    bool good = weights.front() == 0;
    for (const auto& [place, pending] : pending_) {
        const float weight = weights[place];
        if (weight == 0) continue;
        // A NaN is a gradient that somebody has divided by a norm that is NaN.
        const float least = strict_ ? kWhole / kLargestFactor : -kWhole * kLargestFactor;
        good &= std::isnan(weight) || (weight >= least && weight <= kWhole * kLargestFactor);
        expected += double{weight} * double{pending.share};
        size += std::abs(weight);
    }
    const double given = weights.back();
    good &= std::isnan(given) || !std::isfinite(expected) ||
            std::abs(given - expected) <= size * 0x1p-14;
    if (good) return;
    if (!strict_)
        throw std::runtime_error(
            "the train_step of this model has changed the gradient of this table, which is a "
            "token on JAX, and not by a factor of 2^-30 to 2^30 or a sum alone. Clip with the "
            "optimizer's clipnorm, clipvalue or global_clipnorm, and let its weight_decay decay; "
            "or use rowwise.jax, or keras.layers.Embedding");
    throw std::runtime_error(
        "a transformation that stands before rowwise.jax.optimizer has changed the gradient "
        "of the table's token, and not by a factor of 2^-30 to 2^30 alone. What is not linear "
        "(optax.clip, optax.adam and other optimizers, weight decay, a learning rate) belongs "
        "into the first argument of rowwise.jax.optimizer, for the dense parameters, and into "
        "the rule of the rows; for optax.clip_by_global_norm there is "
        "rowwise.jax.clip_by_global_norm. (Or the gradient is older than the latest " +
        std::to_string(capacity_) + " lookups: Embedding(..., pending=))");
}

RowGradients ProgramTable::summed(std::span<const float> weights) {
    const std::shared_lock open(open_);
    table();
    return weighted(weights, true);
}

int64_t ProgramTable::waiting() const {
    const std::lock_guard hold(mutex_);
    return static_cast<int64_t>(pending_.size());
}

void ProgramTable::hold(std::vector<int64_t> places) {
    const std::lock_guard hold(mutex_);
    held_ = std::move(places);
}

void ProgramTable::clear() {
    const std::lock_guard hold(mutex_);
    pending_.clear();
}

// Drops gradients but for those held and those with a weight.
void ProgramTable::clear_but(std::span<const float> weights) {
    const std::lock_guard hold(mutex_);
    std::erase_if(pending_, [&](const auto& entry) {
        const auto place = static_cast<std::size_t>(entry.first);
        const bool weighs = place < weights.size() && weights[place] != 0;
        return !weighs && std::find(held_.begin(), held_.end(), entry.first) == held_.end();
    });
}

void ProgramTable::norm(const ProgramCall& call) {
    const RowGradients rows = weighted(FloatArray(call.arguments[0]).values, true);
    double sum = 0;
    for (const float g : rows.sums) sum += double{g} * double{g};
    *static_cast<float*>(call.out.data) = static_cast<float>(std::sqrt(sum));
}

void ProgramTable::finite(const ProgramCall& call) {
    const RowGradients rows = weighted(FloatArray(call.arguments[0]).values, true);
    const bool good =
        std::all_of(rows.sums.begin(), rows.sums.end(), [](float g) { return std::isfinite(g); });
    *static_cast<float*>(call.out.data) = good ? 1 : kNan;
}

// ---------------------------------------------------------------------- steps

void ProgramTable::step(const ProgramCall& call) {
    const double rate = number(call.arguments[3]);
    const auto iteration = static_cast<int64_t>(number(call.arguments[2]));
    if (number(call.arguments[4]) != 0 && !failed()) {
        check_version(call.arguments[0]);
        make_step(call, rate, iteration);
    }
    write_token(call.out);
}

void ProgramTable::make_step(const ProgramCall& call, double rate, int64_t iteration) {
    const int64_t rule = call.rule < 0 ? current_rule_ : call.rule;
    const KnownRule& known = rules_.at(rule);
    const bool divides_by_0 = rate == 0 && known.formula.divides_by_rate;
    if (!std::isfinite(rate) || rate < 0 || iteration < 1 || divides_by_0)
        throw Failure{Failure::Kind::step, "", rate, iteration};
    const bool clips = call.clip >= 0;
    const FloatArray weights(call.arguments[1]);
    int64_t taken = 0;
    RowGradients rows = weighted(weights.values, clips, clips ? nullptr : &taken);
    if (clips) {
        const auto most = static_cast<float>(call.clip);
        for (float& g : rows.sums) g = g < -most ? -most : g > most ? most : g;  // a NaN stays
    }
    try {
        if (rule != current_rule_ || table_->rule_version() != rule_version_) {
            table_->set_hyperparameters(known.rule);
            current_rule_ = changed_rule_ = rule;
            rule_version_ = table_->rule_version();
        }
        table_->update(rows, known.formula.at(rate, iteration), frozen_row_);
    } catch (...) {  // the gradient waits on, for a step that succeeds
        if (taken) put_back(taken, std::move(rows));
        throw;
    }
    clear_but({});  // and with them those that nobody applied
    if (!known.supports_lazy) table_->materialize();
}

void ProgramTable::discard(const ProgramCall& call) {
    clear_but(FloatArray(call.arguments[1]).values);
    std::ranges::copy(FloatArray(call.arguments[0]).values, floats_out(call.out).begin());
}

}  // namespace rowwise
