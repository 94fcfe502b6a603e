// The kernels: lookup, update, sync. Rows are far apart in memory, so each loop asks for the rows
// ahead before it works on its own.
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

    Row(const Store& store, int64_t id) : w(store.weights + id * store.dim) {
        for (int i = 0; i < R::slots; ++i) z[i] = store.slots[i] + id * store.dim;
    }

    // Asks for one line, or for all.
    template <bool Write>
    void ask(int64_t d, bool slots) const {
        __builtin_prefetch(w + d, Write);
        if (slots)
            for (int i = 0; i < R::slots; ++i) __builtin_prefetch(z[i] + d, Write);
    }

    void ask_all(int64_t dim, bool slots) const {
        for (int64_t d = 0; d < dim && d < kHead; d += kLine) ask<false>(d, slots);
    }

    Slots<R::slots> load(int64_t d) const {
        Slots<R::slots> s;
        for (int i = 0; i < R::slots; ++i) s.z[i] = z[i][d];
        return s;
    }

    void store(int64_t d, const Slots<R::slots>& s) const {
        for (int i = 0; i < R::slots; ++i) z[i][d] = s.z[i];
    }
};

// A row's life lies in its state, the clock and the rule; this answers what it missed.
template <class R>
struct Past {
    const Store& store;
    const Clock& clock;
    const Skip* recent;
    const uint32_t now, window;

    Past(const Store& store, const Clock& clock)
        : store(store), clock(clock), recent(clock.recent()), now(clock.now()),
          window(clock.window()) {}

    // Slots that cannot matter need not be read: those of a row that no batch touched are zero.
    bool slots_matter(const RowState& state) const {
        return R::moves && !(store.fresh && state.updates == 0);
    }

    const Skip& missed(const RowState& state, Skip& scratch) const {
        const uint32_t k = now - state.stamp;
        if (k <= window) return recent[k];
        return scratch = clock.since(state.stamp);
    }
};

// Whether missed steps have to be replayed for some elements of a row.
template <class R>
bool replays(const Skip& skip, const Hyper& h, const Row<R>& row, int64_t dim) {
    bool any = false;
    if constexpr (R::expands) {
        if (!R::may_fail(skip)) return false;
        const float limit = R::limit(skip, h);
        for (int64_t d = 0; d < dim; ++d) any |= R::fails(limit, row.load(d));
    }
    return any;
}

// out <- the present values of those elements that the polynomial in y does not serve.
template <class R>
void replay_where_it_fails(const Past<R>& past, const Rule& rule, const RowState& state,
                           const Row<R>& row, const Skip& skip, float* out) {
    if constexpr (R::expands) {
        const Skip k = skip;
        const Hyper h = rule.hyper;
        const float limit = R::limit(k, h);
        const int64_t dim = past.store.dim;
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
        const Scratch<Clock::Term> terms(past.window);
        const int64_t count = past.clock.replay_terms(state.stamp, terms.data);
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
            out[d] = static_cast<float>(static_cast<double>(k.keep) * row.w[d] - moved);
        }
    }
}

// out <- the row's present value. Calls ask(d) before each line's arithmetic.
template <class R, class Ask>
void value_at(const Past<R>& past, const Rule& rule, const RowState& state, const Row<R>& row,
              float* __restrict out, Ask&& ask) {
    const int64_t dim = past.store.dim;
    const float* __restrict w = row.w;
    Skip scratch;
    const Skip k = past.missed(state, scratch);  // a copy the compiler knows nobody else writes
    if (!past.slots_matter(state)) {
        by_lines(dim, ask, [&](int64_t d) { out[d] = R::untouched(k, w[d]); });
        return;
    }
    const Hyper h = rule.hyper;
    by_lines(dim, ask, [&](int64_t d) {
        float value = w[d];
        R::move(k, h, value, row.load(d));
        out[d] = value;
    });
    if (replays(k, h, row, dim)) replay_where_it_fails(past, rule, state, row, k, out);
}

// The row itself, weight and slots, brought to now.
template <class R>
void catch_up(const Past<R>& past, const Rule& rule, const RowState& state, const Row<R>& row) {
    if (state.stamp == past.now) return;
    const int64_t dim = past.store.dim;
    Skip scratch;
    const Skip k = past.missed(state, scratch);
    const Hyper h = rule.hyper;
    const bool replayed = replays(k, h, row, dim);
    if (replayed) {
        const Scratch<float> present(dim);
        value_at(past, rule, state, row, present.data, [](int64_t) {});
        std::memcpy(row.w, present.data, dim * sizeof(float));
    }
    for (int64_t d = 0; d < dim; ++d) {
        auto slots = row.load(d);
        float value = row.w[d];
        if (!replayed) R::move(k, h, value, slots);
        R::fade(k, h, slots);
        row.w[d] = value;
        row.store(d, slots);
    }
}

// What the row missed, then one step with gradient g (dim,), in one pass over the row. Asks for the
// row `ahead`.
template <class R>
void skip_and_step(const Skip& skip, const Rule& rule, const Step& step, const Row<R>& row,
                   const float* __restrict g, int64_t dim, const Row<R>& ahead) {
    const Skip k = skip;
    const Hyper h = rule.hyper;
    const Step s = step;
    float* __restrict w = row.w;
    const auto ask = [&](int64_t d) { ahead.template ask<true>(d, true); };
    by_lines(dim, ask, [&](int64_t d) {
        float value = w[d];
        auto slots = row.load(d);
        R::move(k, h, value, slots);
        R::fade(k, h, slots);
        R::step(s, h, g[d], value, slots);
        w[d] = value;
        row.store(d, slots);
    });
}

// The present value (dim,) of row ids[i] of the n: in the table, where the row is current, or else
// in `out`. Asks for the rows ahead.
template <class R>
const float* present(const Past<R>& past, const Rule& rule, const int64_t* ids, int64_t n,
                     int64_t i, float* out) {
    const Store& store = past.store;
    const bool lazy = past.now != 0;
    if (lazy && i + 2 * kAhead < n) __builtin_prefetch(store.states + ids[i + 2 * kAhead]);
    const int64_t next = ids[i + kAhead < n ? i + kAhead : i];
    const Row<R> row(store, ids[i]), ahead(store, next);
    const bool slots = lazy && past.slots_matter(store.states[next]);
    if (!lazy || store.states[ids[i]].stamp == past.now) {
        ahead.ask_all(store.dim, slots);
        return row.w;
    }
    value_at(past, rule, store.states[ids[i]], row, out,
             [&](int64_t d) { ahead.template ask<false>(d, slots); });
    return out;
}

template <class R>
void lookup_rows(const Store& store, const Rule& rule, const Clock& clock, const int64_t* ids,
                 int64_t n, float* out) {
    const Past<R> past(store, clock);
    parallel(n, kRowsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            float* to = out + i * store.dim;
            const float* value = present(past, rule, ids, n, i, to);
            if (value != to) std::memcpy(to, value, store.dim * sizeof(float));
        }
    });
}

template <class R>
void update_rows(Store& store, const Rule& rule, const Clock& clock, const Step& step,
                 const Plan& plan, const float* gradients) {
    const Past<R> past(store, clock);
    const int64_t distinct = plan.distinct(), dim = store.dim;
    const int64_t* ids = plan.ids.data();
    parallel(distinct, kRowsPerTask, [&](int64_t begin, int64_t end) {
        const Scratch<float> sum(dim);
        for (int64_t i = begin; i < end; ++i) {
            if (i + 2 * kAhead < distinct) __builtin_prefetch(store.states + ids[i + 2 * kAhead], 1);
            if (i + kAhead < distinct) {
                const uint32_t source = plan.sources[plan.start[i + kAhead]];
                prefetch_row<false>(gradients + int64_t{source} * dim, dim);
            }
            const float* g = gradients + int64_t{plan.sources[plan.start[i]]} * dim;
            if (plan.start[i + 1] - plan.start[i] > 1 || plan.weights.size) {
                sum_of(plan, i, dim, gradients, sum.data);
                g = sum.data;
            }
            RowState& state = store.states[ids[i]];
            const Row<R> row(store, ids[i]);
            Skip scratch;
            const Skip* skip = &past.missed(state, scratch);
            if (past.slots_matter(state) && replays(*skip, rule.hyper, row, dim)) {
                catch_up(past, rule, state, row);
                skip = past.recent;  // nothing missed any more
            }
            const Row<R> ahead(store, ids[i + kAhead < distinct ? i + kAhead : i]);
            skip_and_step(*skip, rule, step, row, g, dim, ahead);
            state.stamp = step.stamp;
            ++state.updates;
            state.last_update = step.number;
        }
    });
}

// The row to now, whether a batch ever touched it or not.
template <class R>
void bring_row(const Past<R>& past, const Rule& rule, const RowState& state, const Row<R>& row) {
    if (R::slots > 0 && past.store.fresh && state.updates == 0) {
        Skip scratch;
        const Skip k = past.missed(state, scratch);
        if (R::untouched(k, 1.0f) != 1.0f)
            for (int64_t d = 0; d < past.store.dim; ++d) row.w[d] = R::untouched(k, row.w[d]);
    } else {
        catch_up(past, rule, state, row);
    }
}

template <class R>
void sync_rows(Store& store, const Rule& rule, const Clock& clock) {
    const Past<R> past(store, clock);
    parallel(store.rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t id = begin; id < end; ++id) {
            bring_row(past, rule, store.states[id], Row<R>(store, id));
            store.states[id].stamp = 0;
        }
    });
}

template <class R>
void refresh_rows(Store& store, const Rule& rule, const Clock& clock, const Plan& plan) {
    const Past<R> past(store, clock);
    parallel(plan.distinct(), kRowsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t id = plan.ids[i];
            bring_row(past, rule, store.states[id], Row<R>(store, id));
            store.states[id].stamp = past.now;
        }
    });
}

template <class R>
void slot_rows(const Store& store, const Rule& rule, const Clock& clock, int slot, float* out) {
    const Past<R> past(store, clock);
    const Hyper h = rule.hyper;
    parallel(store.rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t id = begin; id < end; ++id) {
            Skip scratch;
            const Skip k = past.missed(store.states[id], scratch);
            const Row<R> row(store, id);
            for (int64_t d = 0; d < store.dim; ++d) {
                auto slots = row.load(d);
                R::fade(k, h, slots);
                out[id * store.dim + d] = slots.z[slot];
            }
        }
    });
}

// Calls f with the rule's type.
template <class F>
void with_rule(const Rule& rule, F&& f) {
    switch (rule.family) {
        case Family::sgd: return f(Sgd{});
        case Family::momentum: return f(Momentum<false>{});
        case Family::nesterov: return f(Momentum<true>{});
        case Family::torch_momentum: return f(TorchMomentum<false>{});
        case Family::torch_nesterov: return f(TorchMomentum<true>{});
        case Family::rmsprop: return f(Rmsprop<false, false, false>{});
        case Family::rmsprop_momentum: return f(Rmsprop<true, false, false>{});
        case Family::rmsprop_centered: return f(Rmsprop<false, true, false>{});
        case Family::rmsprop_centered_momentum: return f(Rmsprop<true, true, false>{});
        case Family::torch_rmsprop: return f(Rmsprop<false, false, true>{});
        case Family::torch_rmsprop_momentum: return f(Rmsprop<true, false, true>{});
        case Family::torch_rmsprop_centered: return f(Rmsprop<false, true, true>{});
        case Family::torch_rmsprop_centered_momentum: return f(Rmsprop<true, true, true>{});
        case Family::adagrad: return f(Adagrad<false>{});
        case Family::torch_adagrad: return f(Adagrad<true>{});
        case Family::adadelta: return f(Adadelta{});
        case Family::adam: return f(Adam<false>{});
        case Family::adam_amsgrad: return f(Adam<true>{});
        case Family::nadam: return f(Nadam{});
        case Family::adamax: return f(Adamax{});
        case Family::torch_adamax: return f(TorchAdamax{});
        case Family::lion: return f(Lion{});
        case Family::ftrl: return f(Ftrl{});
    }
}

void lookup(const Store& store, const Rule& rule, const Clock& clock, const int64_t* ids,
            int64_t n, float* out) {
    with_rule(rule, [&](auto r) {
        lookup_rows<decltype(r)>(store, rule, clock, ids, n, out);
    });
}

void update(Store& store, const Rule& rule, const Clock& clock, const Step& step,
            const Plan& plan, const float* gradients) {
    with_rule(rule, [&](auto r) {
        update_rows<decltype(r)>(store, rule, clock, step, plan, gradients);
    });
}

void sync(Store& store, const Rule& rule, const Clock& clock) {
    with_rule(rule, [&](auto r) { sync_rows<decltype(r)>(store, rule, clock); });
}

void refresh(Store& store, const Rule& rule, const Clock& clock, const Plan& plan) {
    with_rule(rule, [&](auto r) { refresh_rows<decltype(r)>(store, rule, clock, plan); });
}

void slot_values(const Store& store, const Rule& rule, const Clock& clock, int slot, float* out) {
    with_rule(rule, [&](auto r) { slot_rows<decltype(r)>(store, rule, clock, slot, out); });
}

}  // namespace

void read_rows(const Store& store, const Rule& rule, const Clock& clock, const int64_t* ids,
               int64_t n, int64_t begin, int64_t end, float* scratch, const float** rows) {
    with_rule(rule, [&](auto r) {
        const Past<decltype(r)> past(store, clock);
        for (int64_t i = begin; i < end; ++i)
            rows[i - begin] = present(past, rule, ids, n, i, scratch + (i - begin) * store.dim);
    });
}

#define ROWWISE_TEXT(name) #name
#define ROWWISE_NAME(name) ROWWISE_TEXT(name)
extern const Kernels table;
const Kernels table = {ROWWISE_NAME(ROWWISE_ISA), lookup, update, sync, refresh, slot_values,
                       pool, pool_max, pool_dots, sum_gradients, pool_max_gradient, train_pairs};

}  // namespace ROWWISE_ISA
}  // namespace rowwise
