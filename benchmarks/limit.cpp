// The limit: how long the same random rows take to come from memory, and no more.
//
// Gathers rows of a table of weights and two slots, and reads, changes and writes them, with
// nothing else to do; and beside it, on rows of the same kind, the lookup and the step of Adam.
// Every piece in turn, again and again, for a shared machine is not the same from second to second.
// Prints medians in milliseconds, and ours over the limit.
//
//     limit [--rows N] [--dim N] [--ids N] [--threads N] [--repeats N] [--zipf]
//     limit --ahead N         how many rows ahead the bare loops ask for
//     limit --together        the bare loops' weights and slots of a row lie side by side
//     limit --only lookup|plan|update|nothing ...     one piece alone, for counting instructions
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "testbed.hpp"
#include "threads.hpp"

using namespace rowwise;
using IdVector = std::vector<int64_t>;

namespace {

struct Options {
    int64_t rows = 4'000'000, dim = 64, ids = 65'536, repeats = 60, steps = 150, ahead = 3;
    int threads = 2;
    bool zipf = false, together = false;
    std::string only;
};

Options read_options(int count, char** arguments) {
    Options o;
    for (int i = 1; i < count; ++i) {
        const std::string name = arguments[i];
        if (name == "--zipf" || name == "--together") {
            (name == "--zipf" ? o.zipf : o.together) = true;
            continue;
        }
        if (i + 1 == count) {
            std::fprintf(stderr, "limit: %s is unknown, or needs a value\n", name.c_str());
            std::exit(2);
        }
        const char* value = arguments[++i];
        if (name == "--only")
            o.only = value;
        else if (name == "--rows")
            o.rows = std::atoll(value);
        else if (name == "--dim")
            o.dim = std::atoll(value);
        else if (name == "--ids")
            o.ids = std::atoll(value);
        else if (name == "--threads")
            o.threads = std::atoi(value);
        else if (name == "--repeats")
            o.repeats = std::atoll(value);
        else if (name == "--steps")
            o.steps = std::atoll(value);
        else if (name == "--ahead")
            o.ahead = std::atoll(value);
        else {
            std::fprintf(stderr, "limit: there is no option %s\n", name.c_str());
            std::exit(2);
        }
    }
    if (o.rows < 1 || o.dim < 1 || o.ids < 1 || o.repeats < 1 || o.threads < 1 || o.steps < 0 ||
        o.ahead < 0) {
        std::fprintf(stderr,
                     "limit: rows, dim, ids, repeats and threads must be at least 1, ahead 0\n");
        std::exit(2);
    }
    return o;
}

// Where the bare loops find the rows of weights and two slots.
struct Arrays {
    float* first[3];
    int64_t stride, dim, ahead;
};

constexpr int64_t kLine = 16;

// Calls work(row of weights, of slot 0, of slot 1, position) for all ids, asking for rows ahead.
template <bool Write, class Work>
void each_row(const Arrays& a, const IdVector& ids, Work&& work) {
    const auto n = static_cast<int64_t>(ids.size());
    parallel(n, 512, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            if (i + a.ahead < n)
                for (const float* first : a.first)
                    for (int64_t d = 0; d < a.dim; d += kLine)
                        __builtin_prefetch(first + ids[i + a.ahead] * a.stride + d, Write);
            const int64_t at = ids[i] * a.stride;
            work(a.first[0] + at, a.first[1] + at, a.first[2] + at, i);
        }
    });
}

void gather(const Arrays& a, const IdVector& ids, float* out) {
    each_row<false>(a, ids, [&](const float* w, const float* m, const float* v, int64_t i) {
        float* __restrict to = out + i * a.dim;
        for (int64_t d = 0; d < a.dim; ++d) to[d] = w[d] + m[d] + v[d];
    });
}

// With duplicates, two threads may change a row at once, so that it is done for distinct ids.
void change(const Arrays& a, const IdVector& ids, const float* by) {
    each_row<true>(a, ids,
                   [&](float* __restrict w, float* __restrict m, float* __restrict v, int64_t i) {
                       const float* __restrict g = by + i * a.dim;
                       for (int64_t d = 0; d < a.dim; ++d) {
                           w[d] += 1e-9f * g[d];
                           m[d] += 1e-9f;
                           v[d] += 1e-9f;
                       }
                   });
}

// In the order in which they first stand.
IdVector distinct(const IdVector& ids, int64_t rows) {
    std::vector<bool> seen(rows);
    IdVector first;
    for (const int64_t id : ids) {
        if (!seen[id]) first.push_back(id);
        seen[id] = true;
    }
    return first;
}

template <class F>
double milliseconds(F&& work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
        .count();
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

}  // namespace

int main(int count, char** arguments) {
    const Options o = read_options(count, arguments);
    set_num_threads(o.threads);
    std::mt19937_64 random(0);
    testbed::OwnTable table(testbed::kind("adam"), o.rows, o.dim);
    const testbed::Zeros memory(o.ids * o.dim * sizeof(float));
    auto* vectors = static_cast<float*>(memory.memory);
    const std::span<float> batch(vectors, static_cast<std::size_t>(o.ids * o.dim));
    const auto fresh_ids = [&] { return testbed::random_ids(o.ids, o.rows, o.zipf, random); };

    if (!o.only.empty()) {
        for (int64_t i = 0; i < o.ids * o.dim; ++i) vectors[i] = 1;
        const IdVector ids = fresh_ids();
        BatchPlan plan = table.plan(ids);
        table.train(plan, batch);
        table.train(table.plan({}), {});  // which every row missed
        for (int64_t i = 0; i < o.repeats; ++i) {
            if (o.only == "lookup") table.gather(ids, batch);
            if (o.only == "plan") plan = table.plan(ids);
            if (o.only == "update") table.train(plan, batch);
        }
        std::printf("%s %lld\n", kernels().name, static_cast<long long>(plan.plan.distinct()));
        return 0;
    }

    for (int64_t i = 0; i < o.ids * o.dim; ++i) vectors[i] = static_cast<float>(i % 7 - 3);
    for (int64_t i = 0; i < o.steps; ++i) table.train(table.plan(fresh_ids()), batch);

    const int64_t size = o.rows * o.dim;
    const testbed::Zeros side_by_side(o.together ? 3 * size * sizeof(float) : 1);
    auto* block = static_cast<float*>(side_by_side.memory);
    if (o.together)
        for (int64_t i = 0; i < 3 * size; ++i) block[i] = 1;
    const Arrays arrays =
        o.together ? Arrays{{block, block + o.dim, block + 2 * o.dim}, 3 * o.dim, o.dim, o.ahead}
                   : Arrays{{table.weights(), table.slot(0), table.slot(1)}, o.dim, o.dim, o.ahead};

    std::vector<double> times[5], lookups, steps;
    for (int64_t i = 0; i < o.repeats; ++i) {
        const IdVector theirs = fresh_ids(), once = distinct(theirs, o.rows), ours = fresh_ids();
        BatchPlan plan;
        const double t[] = {
            milliseconds([&] { gather(arrays, theirs, vectors); }),
            milliseconds([&] { table.gather(ours, batch); }),
            milliseconds([&] { change(arrays, once, vectors); }),
            milliseconds([&] { plan = table.plan(ours); }),
            milliseconds([&] { table.train(plan, batch); }),
        };
        for (int j = 0; j < 5; ++j) times[j].push_back(t[j]);
        lookups.push_back(t[1] / t[0]);
        steps.push_back((t[1] + t[3] + t[4]) / (t[0] + t[2]));
    }
    std::printf("%lld rows x %lld, %lld %s ids, %d threads, %s\n", static_cast<long long>(o.rows),
                static_cast<long long>(o.dim), static_cast<long long>(o.ids),
                o.zipf ? "Zipf" : "uniform", o.threads, kernels().name);
    std::printf("gather %.2f ms, lookup %.2f ms: %.2fx\n", median(times[0]), median(times[1]),
                median(lookups));
    std::printf("read-modify-write %.2f ms, plan %.2f ms, update %.2f ms\n", median(times[2]),
                median(times[3]), median(times[4]));
    std::printf("Adam's step over gather and read-modify-write: %.2fx\n", median(steps));
    return 0;
}
