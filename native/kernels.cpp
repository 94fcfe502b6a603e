// The kernels of single rows: gather, update, materialize. Rows are far apart in memory, so each
// loop asks for the rows ahead before it works on its own.
#include <cstring>

#include "half.hpp"
#include "row.hpp"
#include "threads.hpp"

namespace rowwise {
namespace ROWWISE_ISA {

namespace {

// Returns where the present value (dim,) of row ids[i] of the n is: in the table, where the row is
// current, or else in `out`. Asks for the rows ahead.
template <class R>
const float* present(const Lag<R>& lag, const Rule& rule, const int64_t* ids, int64_t n, int64_t i,
                     float* out) {
    const TableView& table = lag.table;
    if (lag.now != 0 && i + 2 * kAhead < n) __builtin_prefetch(table.states + ids[i + 2 * kAhead]);
    const int64_t next = ids[i + kAhead < n ? i + kAhead : i];
    const Row<R> row(table, ids[i]), ahead(table, next);
    const bool slots = lag.lags(table.states[next]) && lag.reads_slots(table.states[next]);
    if (!lag.lags(table.states[ids[i]])) {
        ahead.ask_all(table.dim, slots);
        return row.w;
    }
    value_at(lag, rule, table.states[ids[i]], row, out,
             [&](int64_t d) { ahead.template ask<false>(d, slots); });
    return out;
}

template <class R>
void gather_rows(const TableView& table, const Rule& rule, const Clock& clock, const int64_t* ids,
                 int64_t n, float* out) {
    const Lag<R> lag(table, clock);
    parallel(n, kRowsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            float* to = out + i * table.dim;
            const float* value = present(lag, rule, ids, n, i, to);
            if (value != to) std::memcpy(to, value, table.dim * sizeof(float));
        }
    });
}

template <class R>
void update_rows(const TableView& table, const Rule& rule, const Clock& clock, const Step& step,
                 const Plan& plan, const float* gradients) {
    const Lag<R> lag(table, clock);
    const int64_t distinct = plan.distinct(), dim = table.dim;
    const int64_t* ids = plan.ids.data();
    parallel(distinct, kRowsPerTask, [&](int64_t begin, int64_t end) {
        const Scratch<float> sum(dim);
        for (int64_t i = begin; i < end; ++i) {
            if (i + 2 * kAhead < distinct)
                __builtin_prefetch(table.states + ids[i + 2 * kAhead], 1);
            const float* g = gradients + int64_t{plan.sources[plan.start[i]]} * dim;
            if (plan.start[i + 1] - plan.start[i] > 1 || plan.weights.size) {
                sum_of(plan, i, dim, gradients, sum.data);
                g = sum.data;
            } else {
                ask_gradient(plan, plan.start[i], dim, gradients);
            }
            RowState& state = table.states[ids[i]];
            const Row<R> row(table, ids[i]);
            LaggedUpdate scratch;
            const LaggedUpdate* lagged = &lag.missed(state, scratch);
            if (lag.reads_slots(state) && replays(*lagged, rule.hyper, row, dim)) {
                apply_lag(lag, rule, state, row);
                lagged = lag.recent;  // nothing missed any more
            }
            const Row<R> ahead(table, ids[i + kAhead < distinct ? i + kAhead : i]);
            lag_and_step(*lagged, rule, step, row, g, dim, ahead);
            state.last_step = step.last_step;
            state.count_update(step.iteration);
        }
    });
}

// Brings a row up to date, whether a batch ever touched it or not.
template <class R>
void materialize_row(const Lag<R>& lag, const Rule& rule, const RowState& state,
                     const Row<R>& row) {
    if (R::slots > 0 && lag.table.slots_pristine && state.update_count == 0) {
        LaggedUpdate scratch;
        const LaggedUpdate k = lag.missed(state, scratch);
        if (R::lag_untrained(k, 1.0f) != 1.0f)
            for (int64_t d = 0; d < lag.table.dim; ++d) row.w[d] = R::lag_untrained(k, row.w[d]);
    } else {
        apply_lag(lag, rule, state, row);
    }
}

template <class R>
void materialize_all_rows(const TableView& table, const Rule& rule, const Clock& clock) {
    const Lag<R> lag(table, clock);
    parallel(table.rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t id = begin; id < end; ++id) {
            materialize_row(lag, rule, table.states[id], Row<R>(table, id));
            table.states[id].last_step = 0;
        }
    });
}

template <class R>
void materialize_rows(const TableView& table, const Rule& rule, const Clock& clock,
                      const Plan& plan) {
    const Lag<R> lag(table, clock);
    parallel(plan.distinct(), kRowsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t id = plan.ids[i];
            materialize_row(lag, rule, table.states[id], Row<R>(table, id));
            table.states[id].last_step = lag.now;
        }
    });
}

template <class R>
void read_slot_rows(const TableView& table, const Rule& rule, const Clock& clock, int slot,
                    float* out) {
    const Lag<R> lag(table, clock);
    const Hyperparameters h = rule.hyper;
    parallel(table.rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t id = begin; id < end; ++id) {
            LaggedUpdate scratch;
            const LaggedUpdate k = lag.missed(table.states[id], scratch);
            const Row<R> row(table, id, nullptr);
            for (int64_t d = 0; d < table.slot_dim; ++d) {
                auto slots = row.load(d);
                R::lag_slots(k, h, slots);
                out[id * table.slot_dim + d] = slots.z[slot];
            }
        }
    });
}

void gather(const TableView& table, const Rule& rule, const Clock& clock, const int64_t* ids,
            int64_t n, float* out) {
    if (table.storage != Storage::float32) return gather_half(table, rule, clock, ids, n, out);
    with_rule(rule, [&](auto r) { gather_rows<decltype(r)>(table, rule, clock, ids, n, out); });
}

void update(const TableView& table, const Rule& rule, const Clock& clock, const Step& step,
            const Plan& plan, const float* gradients) {
    if (table.storage != Storage::float32)
        return update_half(table, rule, clock, step, plan, gradients);
    with_rule(rule,
              [&](auto r) { update_rows<decltype(r)>(table, rule, clock, step, plan, gradients); });
}

void materialize(const TableView& table, const Rule& rule, const Clock& clock, const Plan& plan) {
    if (table.storage != Storage::float32) return materialize_half(table, rule, clock, plan);
    with_rule(rule, [&](auto r) { materialize_rows<decltype(r)>(table, rule, clock, plan); });
}

void materialize_all(const TableView& table, const Rule& rule, const Clock& clock) {
    if (table.storage != Storage::float32) return materialize_all_half(table, rule, clock);
    with_rule(rule, [&](auto r) { materialize_all_rows<decltype(r)>(table, rule, clock); });
}

void read_slot(const TableView& table, const Rule& rule, const Clock& clock, int slot, float* out) {
    with_rule(rule, [&](auto r) { read_slot_rows<decltype(r)>(table, rule, clock, slot, out); });
}

}  // namespace

void read_rows(const TableView& table, const Rule& rule, const Clock& clock, const int64_t* ids,
               int64_t n, int64_t begin, int64_t end, float* scratch, const float** rows) {
    if (table.storage != Storage::float32) {
        gather_half_rows(table, rule, clock, ids, n, begin, end, scratch);
        for (int64_t i = begin; i < end; ++i) rows[i - begin] = scratch + (i - begin) * table.dim;
        return;
    }
    with_rule(rule, [&](auto r) {
        const Lag<decltype(r)> lag(table, clock);
        for (int64_t i = begin; i < end; ++i)
            rows[i - begin] = present(lag, rule, ids, n, i, scratch + (i - begin) * table.dim);
    });
}

#define ROWWISE_TEXT(name) #name
#define ROWWISE_NAME(name) ROWWISE_TEXT(name)
extern const Kernels entry_points;
const Kernels entry_points = {ROWWISE_NAME(ROWWISE_ISA),
                              gather,
                              update,
                              materialize,
                              materialize_all,
                              read_slot,
                              gather_bags,
                              gather_bags_max,
                              bag_weight_gradient,
                              sum_gradients,
                              gather_bags_max_gradient,
                              widen,
                              narrow,
                              train_pairs};

}  // namespace ROWWISE_ISA
}  // namespace rowwise
