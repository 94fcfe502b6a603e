// A table without Python, for the native benchmark and the native tests.
#pragma once
#include <cmath>
#include <random>
#include <stdexcept>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"

namespace rowwise::testbed {

// A rule's shape, as `rowwise.rules` describes it to the kernels; all take the same numbers.
struct Kind {
    const char* name;
    Family family;
    int slots;
    int terms = 0;
    double ratio = 0, growth = 1, shrink = 1;
    bool endless = false;
};

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-7, kRate = 0.01;

inline Kind adam() {
    const double root = std::sqrt(kBeta2);
    return {"adam", Family::adam, 2, kTerms, kBeta1 / root, 1 / root, root};
}

struct Zeros {
    void* memory;
    std::size_t bytes;
    explicit Zeros(std::size_t bytes) : memory(allocate(bytes)), bytes(bytes) {
        if (memory == nullptr) throw std::bad_alloc();
    }
    ~Zeros() { release(memory, bytes); }
    Zeros(const Zeros&) = delete;
    Zeros& operator=(const Zeros&) = delete;
};

class Table {
  public:
    Table(const Kind& kind, int64_t rows, int64_t dim)
        : weights_(rows * dim * sizeof(float)),
          slots_(rows * dim * sizeof(float) * (kind.slots > 0 ? kind.slots : 1)),
          states_(rows * sizeof(RowState)),
          clock_(kind.ratio, kind.growth, kind.terms, kind.endless, window(kind),
                 std::vector<double>(kind.slots, kBeta1)) {
        store_.weights = static_cast<float*>(weights_.memory);
        for (int i = 0; i < kind.slots; ++i)
            store_.slots[i] = static_cast<float*>(slots_.memory) + i * rows * dim;
        store_.states = static_cast<RowState*>(states_.memory);
        store_.rows = rows;
        store_.dim = dim;
        store_.fresh = true;
        for (int64_t i = 0; i < rows * dim; ++i)
            store_.weights[i] = static_cast<float>(i % 1000) * 1e-3f;
        rule_.family = kind.family;
        Hyper& h = rule_.hyper;
        h.momentum = h.rho = h.beta_1 = static_cast<float>(kBeta1);
        h.one_minus_rho = h.one_minus_beta_1 = static_cast<float>(1 - kBeta1);
        h.beta_2 = static_cast<float>(kBeta2);
        h.one_minus_beta_2 = static_cast<float>(1 - kBeta2);
        h.epsilon = static_cast<float>(kEpsilon);
        h.power = 0.5f;
        h.window_shrink = 1e-3f;
        h.exact_beta_1 = kBeta1;
        h.exact_shrink = kind.shrink;
        h.exact_epsilon = kEpsilon;
    }

    void lookup(const std::vector<int64_t>& ids, float* out) const {
        kernels().lookup(store_, rule_, clock_, ids.data(), static_cast<int64_t>(ids.size()), out);
    }

    void pool(const Bags& bags, float* out) const {
        kernels().pool(store_, rule_, clock_, bags, out);
    }

    Plan plan(const std::vector<int64_t>& ids) const {
        return make_plan(ids.data(), static_cast<int64_t>(ids.size()), store_.rows);
    }

    void update(const Plan& plan, const float* gradients) {
        Step step;
        step.lr = step.scale = step.gradient_scale = static_cast<float>(kRate);
        step.epsilon = static_cast<float>(kEpsilon);
        step.number = ++steps_;
        step.stamp = clock_.now() + 1;
        kernels().update(store_, rule_, clock_, step, plan, gradients);
        clock_.advance({kRate, 1, 1});
    }

    void sync() {
        kernels().sync(store_, rule_, clock_);
        clock_.restart();
    }

    const Store& store() const { return store_; }

  private:
    static uint32_t window(const Kind& kind) {
        if (kind.terms == 0 || kind.endless) return kind.endless ? 64 : 1;
        return static_cast<uint32_t>(std::ceil(std::log(std::ldexp(1.0, -30)) /
                                               std::log(kind.ratio)));
    }

    Zeros weights_, slots_, states_;
    Store store_{};
    Rule rule_{};
    Clock clock_;
    int64_t steps_ = 0;
};

// n ids of `rows`: uniform, or the k-th most frequent as often as 1 / k, scattered over the table.
inline std::vector<int64_t> random_ids(int64_t n, int64_t rows, bool zipf, std::mt19937_64& random) {
    std::vector<int64_t> ids(n);
    std::uniform_real_distribution<double> unit(0, 1);
    for (auto& id : ids) {
        if (zipf) {
            const auto rank = static_cast<uint64_t>(std::pow(static_cast<double>(rows), unit(random)));
            id = static_cast<int64_t>(rank * 2654435761u % static_cast<uint64_t>(rows));
        } else {
            id = static_cast<int64_t>(random() % static_cast<uint64_t>(rows));
        }
    }
    return ids;
}

}  // namespace rowwise::testbed
