// The kernels of single rows: gather, update, materialize. Rows are far apart in memory, so each
// loop asks for the rows ahead before it works on its own.
#include <cstring>

#include "rows.hpp"
#include "rules.hpp"
#include "threads.hpp"

namespace rowwise {
namespace ROWWISE_ISA {

namespace {

template <class R>
struct Row {
    float* w;
    float* z[R::slots > 0 ? R::slots : 1];

    Row(const TableView& table, int64_t id) : w(table.weights + id * table.dim) {
        const int64_t slot_dim = R::row_slots ? 1 : table.dim;
        for (int i = 0; i < R::slots; ++i) z[i] = table.slots[i] + id * slot_dim;
    }

    // Asks for one line, or for all.
    template <bool Write>
    void ask(int64_t d, bool slots) const {
        __builtin_prefetch(w + d, Write);
        if (slots && (!R::row_slots || d == 0))
            for (int i = 0; i < R::slots; ++i) __builtin_prefetch(z[i] + d, Write);
    }

    void ask_all(int64_t dim, bool slots) const {
        for (int64_t d = 0; d < dim && d < kHead; d += kLine) ask<false>(d, slots);
    }

    Slots<R::slots> load(int64_t d) const {
        Slots<R::slots> s{};
        for (int i = 0; i < R::slots; ++i) s.z[i] = z[i][R::row_slots ? 0 : d];
        return s;
    }

    void store(int64_t d, const Slots<R::slots>& s) const {
        for (int i = 0; i < R::slots; ++i) z[i][R::row_slots ? 0 : d] = s.z[i];
    }
};

// Says what rows missed, from their states and the clock.
template <class R>
struct Lag {
    const TableView& table;
    const Clock& clock;
    const LaggedUpdate* recent;
    const uint32_t now, horizon;

    Lag(const TableView& table, const Clock& clock)
        : table(table), clock(clock), recent(clock.recent()), now(clock.now()),
          horizon(clock.horizon()) {}

    // Slots that cannot move the weight need not be read: those of an untouched row are zero.
    bool reads_slots(const RowState& state) const {
        return R::moves && !(table.slots_pristine && state.update_count == 0);
    }

    const LaggedUpdate& missed(const RowState& state, LaggedUpdate& scratch) const {
        const uint32_t k = now - state.last_step;
        if (k <= horizon) return recent[k];
        return scratch = clock.since(state.last_step);
    }
};

// Whether missed steps have to be replayed for some elements of a row.
template <class R>
bool replays(const LaggedUpdate& lagged, const Hyperparameters& h, const Row<R>& row, int64_t dim) {
    bool any = false;
    if constexpr (R::expands) {
        if (!R::may_fail(lagged)) return false;
        const float limit = R::limit(lagged, h);
        for (int64_t d = 0; d < dim; ++d) any |= R::fails(limit, row.load(d));
    }
    return any;
}

// out <- the present values of those elements that the polynomial in y does not serve.
template <class R>
void replay_where_it_fails(const Lag<R>& lag, const Rule& rule, const RowState& state,
                           const Row<R>& row, const LaggedUpdate& lagged, float* out) {
    if constexpr (R::expands) {
        const LaggedUpdate k = lagged;
        const Hyperparameters h = rule.hyper;
        const float limit = R::limit(k, h);
        const int64_t dim = lag.table.dim;
        const Scratch<double> root(dim), sum(dim);
        const Scratch<int64_t> which(dim);
        int64_t n = 0;
        for (int64_t d = 0; d < dim; ++d) {
            const auto slots = row.load(d);
            if (!R::fails(limit, slots)) continue;
            which.data[n] = d;
            root.data[n] = R::root(slots);
            sum.data[n++] = 0;
        }
        const Scratch<Clock::Term> terms(lag.horizon);
        const int64_t count = lag.clock.replay_terms(state.last_step, terms.data);
        double power = 1, shrink = 1;
        for (int64_t j = 0; j < count; ++j) {  // all elements at once: a division each is the cost
            power *= h.exact_beta_1;
            shrink *= h.exact_shrink;
            const double scale = terms.data[j].scale * power;
            const double epsilon = h.exact_epsilon * terms.data[j].epsilon_factor;
            for (int64_t i = 0; i < n; ++i)
                sum.data[i] += scale / R::denominator(root.data[i] * shrink, epsilon);
        }
        for (int64_t i = 0; i < n; ++i) {
            const int64_t d = which.data[i];
            const double moved = row.load(d).z[0] * sum.data[i];
            out[d] = static_cast<float>(static_cast<double>(k.decay_factor) * row.w[d] - moved);
        }
    }
}

// out <- the row's present value. Calls ask(d) before each line's arithmetic.
template <class R, class Ask>
void value_at(const Lag<R>& lag, const Rule& rule, const RowState& state, const Row<R>& row,
              float* __restrict out, Ask&& ask) {
    const int64_t dim = lag.table.dim;
    const float* __restrict w = row.w;
    LaggedUpdate scratch;
    // A copy, which the compiler knows that nobody else writes.
    const LaggedUpdate k = lag.missed(state, scratch);
    if (!lag.reads_slots(state)) {
        by_lines(dim, ask, [&](int64_t d) { out[d] = R::lag_untrained(k, w[d]); });
        return;
    }
    const Hyperparameters h = rule.hyper;
    by_lines(dim, ask, [&](int64_t d) {
        float value = w[d];
        R::lag_weight(k, h, value, row.load(d));
        out[d] = value;
    });
    if (replays(k, h, row, dim)) replay_where_it_fails(lag, rule, state, row, k, out);
}

// Brings a row's weights and slots up to date.
template <class R>
void apply_lag(const Lag<R>& lag, const Rule& rule, const RowState& state, const Row<R>& row) {
    if (state.last_step == lag.now) return;
    const int64_t dim = lag.table.dim;
    LaggedUpdate scratch;
    const LaggedUpdate k = lag.missed(state, scratch);
    const Hyperparameters h = rule.hyper;
    if constexpr (R::row_slots) {
        auto slots = row.load(0);
        for (int64_t d = 0; d < dim; ++d) R::lag_weight(k, h, row.w[d], slots);
        R::lag_slots(k, h, slots);
        row.store(0, slots);
        return;
    }
    const bool replayed = replays(k, h, row, dim);
    if (replayed) {
        const Scratch<float> present(dim);
        value_at(lag, rule, state, row, present.data, [](int64_t) {});
        std::memcpy(row.w, present.data, dim * sizeof(float));
    }
    for (int64_t d = 0; d < dim; ++d) {
        auto slots = row.load(d);
        float value = row.w[d];
        if (!replayed) R::lag_weight(k, h, value, slots);
        R::lag_slots(k, h, slots);
        row.w[d] = value;
        row.store(d, slots);
    }
}

// Applies what the row missed, then one step with gradient g (dim,), in one pass over the row. Asks
// for the row `ahead`.
template <class R>
void lag_and_step(const LaggedUpdate& lagged, const Rule& rule, const Step& step, const Row<R>& row,
                  const float* __restrict g, int64_t dim, const Row<R>& ahead) {
    const LaggedUpdate k = lagged;
    const Hyperparameters h = rule.hyper;
    const Step s = step;
    float* __restrict w = row.w;
    const auto ask = [&](int64_t d) { ahead.template ask<true>(d, true); };
    if constexpr (R::row_slots) {
        auto slots = row.load(0);
        const auto before = slots;
        R::lag_slots(k, h, slots);
        const float rate = R::step_row(s, h, dot(g, g, dim) / static_cast<float>(dim), slots);
        row.store(0, slots);
        by_lines(dim, ask, [&](int64_t d) {
            float value = w[d];
            R::lag_weight(k, h, value, before);
            R::step(s, rate, g[d], value);
            w[d] = value;
        });
    } else {
        by_lines(dim, ask, [&](int64_t d) {
            float value = w[d];
            auto slots = row.load(d);
            R::lag_weight(k, h, value, slots);
            R::lag_slots(k, h, slots);
            R::step(s, h, g[d], value, slots);
            w[d] = value;
            row.store(d, slots);
        });
    }
}

// Returns where the present value (dim,) of row ids[i] of the n is: in the table, where the row is
// current, or else in `out`. Asks for the rows ahead.
template <class R>
const float* present(const Lag<R>& lag, const Rule& rule, const int64_t* ids, int64_t n, int64_t i,
                     float* out) {
    const TableView& table = lag.table;
    const bool lazy = lag.now != 0;
    if (lazy && i + 2 * kAhead < n) __builtin_prefetch(table.states + ids[i + 2 * kAhead]);
    const int64_t next = ids[i + kAhead < n ? i + kAhead : i];
    const Row<R> row(table, ids[i]), ahead(table, next);
    const bool slots = lazy && lag.reads_slots(table.states[next]);
    if (!lazy || table.states[ids[i]].last_step == lag.now) {
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
            const Row<R> row(table, id);
            for (int64_t d = 0; d < table.slot_dim; ++d) {
                auto slots = row.load(d);
                R::lag_slots(k, h, slots);
                out[id * table.slot_dim + d] = slots.z[slot];
            }
        }
    });
}

// Calls f with the class of the rule.
template <class F>
void with_rule(const Rule& rule, F&& f) {
    switch (rule.family) {
#define ROWWISE_CASE(name, ...)                                               \
    case Family::name:                                                        \
        static_assert(__VA_ARGS__::row_slots == has_row_slots(Family::name)); \
        return f(__VA_ARGS__{});
        ROWWISE_FAMILIES(ROWWISE_CASE)
#undef ROWWISE_CASE
    }
}

void gather(const TableView& table, const Rule& rule, const Clock& clock, const int64_t* ids,
            int64_t n, float* out) {
    with_rule(rule, [&](auto r) { gather_rows<decltype(r)>(table, rule, clock, ids, n, out); });
}

void update(const TableView& table, const Rule& rule, const Clock& clock, const Step& step,
            const Plan& plan, const float* gradients) {
    with_rule(rule,
              [&](auto r) { update_rows<decltype(r)>(table, rule, clock, step, plan, gradients); });
}

void materialize(const TableView& table, const Rule& rule, const Clock& clock, const Plan& plan) {
    with_rule(rule, [&](auto r) { materialize_rows<decltype(r)>(table, rule, clock, plan); });
}

void materialize_all(const TableView& table, const Rule& rule, const Clock& clock) {
    with_rule(rule, [&](auto r) { materialize_all_rows<decltype(r)>(table, rule, clock); });
}

void read_slot(const TableView& table, const Rule& rule, const Clock& clock, int slot, float* out) {
    with_rule(rule, [&](auto r) { read_slot_rows<decltype(r)>(table, rule, clock, slot, out); });
}

}  // namespace

void read_rows(const TableView& table, const Rule& rule, const Clock& clock, const int64_t* ids,
               int64_t n, int64_t begin, int64_t end, float* scratch, const float** rows) {
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
                              train_pairs};

}  // namespace ROWWISE_ISA
}  // namespace rowwise
