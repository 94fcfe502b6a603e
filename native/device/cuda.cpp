// The kernels on a GPU: modules that NVRTC compiled, launched by the driver, which is looked for
// when the first table goes there. Nothing of CUDA is linked.
#include <array>
#include <bit>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "device/engine.hpp"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace rowwise {

namespace {

// The driver's types and calls, as its documentation says them.
using Device = int;
using Status = int;
using Context = void*;
using Module = void*;
using Function = void*;
using Stream = void*;
using DeviceAddress = unsigned long long;

void* symbol(const char* name) {
#ifdef _WIN32
    static const HMODULE library = LoadLibraryA("nvcuda.dll");
    return library ? reinterpret_cast<void*>(GetProcAddress(library, name)) : nullptr;
#else
    static void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    return library != nullptr ? dlsym(library, name) : nullptr;
#endif
}

template <class Call>
Call* call_of(const char* name) {
    void* found = symbol(name);
    if (found == nullptr)
        throw std::runtime_error(std::string("NVIDIA's driver was not found, or lacks ") + name +
                                 "; install it, or leave the embedding on the CPU");
    return reinterpret_cast<Call*>(found);
}

struct Driver {
    Status (*error_string)(Status, const char**) =
        call_of<Status(Status, const char**)>("cuGetErrorString");
    Status (*device_get)(Device*, int) = call_of<Status(Device*, int)>("cuDeviceGet");
    Status (*context_retain)(Context*, Device) =
        call_of<Status(Context*, Device)>("cuDevicePrimaryCtxRetain");
    Status (*context_push)(Context) = call_of<Status(Context)>("cuCtxPushCurrent_v2");
    Status (*context_pop)(Context*) = call_of<Status(Context*)>("cuCtxPopCurrent_v2");
    Status (*module_load)(Module*,
                          const void*) = call_of<Status(Module*, const void*)>("cuModuleLoadData");
    Status (*module_function)(Function*, Module, const char*) =
        call_of<Status(Function*, Module, const char*)>("cuModuleGetFunction");
    Status (*launch)(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                     Stream, void**, void**) =
        call_of<Status(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                       unsigned, Stream, void**, void**)>("cuLaunchKernel");
    Status (*upload)(DeviceAddress, const void*, std::size_t, Stream) =
        call_of<Status(DeviceAddress, const void*, std::size_t, Stream)>("cuMemcpyHtoDAsync_v2");
    Status (*download)(void*, DeviceAddress, std::size_t, Stream) =
        call_of<Status(void*, DeviceAddress, std::size_t, Stream)>("cuMemcpyDtoHAsync_v2");
    Status (*synchronize)(Stream) = call_of<Status(Stream)>("cuStreamSynchronize");

    Driver() { check(call_of<Status(unsigned)>("cuInit")(0), "cuInit"); }

    void check(Status status, const char* what) const {
        if (status == 0) return;
        const char* text = nullptr;
        error_string(status, &text);
        throw std::runtime_error(std::string("CUDA's ") + what + " failed: " +
                                 (text != nullptr ? text : std::to_string(status).c_str()));
    }
};

const Driver& driver() {
    static const Driver found;
    return found;
}

// Makes a GPU's context current while it lives: that of its primary one, which frameworks use.
class Current {
  public:
    explicit Current(Context context) { driver().check(driver().context_push(context), "context"); }
    ~Current() {
        Context popped;
        driver().context_pop(&popped);
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
};

constexpr int kThreads = 128;  // of a block
constexpr const char* kRowKernels[] = {
#define ROWWISE_TEXT(name, ...) #name,
    ROWWISE_ROW_KERNELS(ROWWISE_TEXT)};
constexpr const char* kOtherKernels[] = {ROWWISE_OTHER_KERNELS(ROWWISE_TEXT)};
#undef ROWWISE_TEXT
constexpr std::size_t kRows = std::size(kRowKernels), kOthers = std::size(kOtherKernels);

// The functions of a module, by kernel: those of rows for 1 number at a time and for 4.
struct Functions {
    std::array<Function, kRows> narrow, wide;
    std::array<Function, kOthers> others;

    Function of(DeviceKernel kernel, bool by_four) const {
        const auto number = static_cast<std::size_t>(kernel);
        if (number >= kRows) return others[number - kRows];
        return by_four ? wide[number] : narrow[number];
    }
};

class CudaEngine : public Engine {
  public:
    explicit CudaEngine(int number) {
        Device device = 0;
        driver().check(driver().device_get(&device, number), "cuDeviceGet");
        driver().check(driver().context_retain(&context_, device), "cuDevicePrimaryCtxRetain");
    }

    bool has_kernels(Family family) const override {
        const std::lock_guard hold(lock_);
        return functions_.count(family) != 0;
    }

    void load_kernels(Family family, std::string_view binary) override {
        const Current current(context_);
        const std::string text(binary);  // PTX ends with a zero
        Module module = nullptr;
        driver().check(driver().module_load(&module, text.c_str()), "cuModuleLoadData");
        const auto function = [&](const std::string& name) {
            Function found = nullptr;
            driver().check(driver().module_function(&found, module, name.c_str()),
                           "cuModuleGetFunction");
            return found;
        };
        Functions functions{};
        for (std::size_t i = 0; i < kRows; ++i) {
            functions.narrow[i] = function(std::string(kRowKernels[i]) + "_1");
            functions.wide[i] = function(std::string(kRowKernels[i]) + "_4");
        }
        for (std::size_t i = 0; i < kOthers; ++i) functions.others[i] = function(kOtherKernels[i]);
        const std::lock_guard hold(lock_);
        functions_[family] = functions;
    }

    void launch(const Launch& launch, const DeviceCall& call, void* stream) override {
        Function function = nullptr;
        {
            const std::lock_guard hold(lock_);
            function = functions_.at(launch.family).of(launch.kernel, launch.wide);
        }
        const int64_t threads = launch.items * launch.lanes;
        const int64_t blocks = (threads + kThreads - 1) / kThreads;
        if (blocks >= int64_t{1} << 31)
            throw std::invalid_argument("a table on a GPU has too many numbers for one launch");
        long long items = launch.items;
        int shift = std::countr_zero(static_cast<unsigned>(launch.lanes));
        void* arguments[] = {const_cast<DeviceCall*>(&call), &items, &shift};
        const Current current(context_);
        driver().check(driver().launch(function, static_cast<unsigned>(blocks), 1, 1, kThreads, 1,
                                       1, 0, stream, arguments, nullptr),
                       "cuLaunchKernel");
    }

    void upload(void* to, const void* from, std::size_t bytes, void* stream) override {
        const Current current(context_);
        driver().check(driver().upload(reinterpret_cast<DeviceAddress>(to), from, bytes, stream),
                       "cuMemcpyHtoDAsync");
        driver().check(driver().synchronize(stream), "cuStreamSynchronize");
    }

    void download(void* to, const void* from, std::size_t bytes, void* stream) override {
        const Current current(context_);
        driver().check(driver().download(to, reinterpret_cast<DeviceAddress>(from), bytes, stream),
                       "cuMemcpyDtoHAsync");
        driver().check(driver().synchronize(stream), "cuStreamSynchronize");
    }

  private:
    Context context_ = nullptr;
    mutable std::mutex lock_;
    std::map<Family, Functions> functions_;
};

}  // namespace

std::shared_ptr<Engine> make_cuda_engine(int device) {
    return std::make_shared<CudaEngine>(device);
}

}  // namespace rowwise
