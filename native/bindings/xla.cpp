// Calls of tables by XLA's programs: its call frame in, `ProgramTable::call`, an error out.
//
// Only what the C interface has in its version 0.1 is used, and that is the version told to the
// runtime, whichever header was there at build time: runtimes take handlers of versions before
// theirs.
#include <xla/ffi/api/c_api.h>

#include <array>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "../programs.hpp"
#include "programs.hpp"

namespace rowwise {
namespace {

XLA_FFI_Error* error_of(const XLA_FFI_CallFrame& frame, XLA_FFI_Error_Code code,
                        const std::string& message) {
    XLA_FFI_Error_Create_Args error{};
    error.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
    error.message = message.c_str();
    error.errc = code;
    return frame.api->XLA_FFI_Error_Create(&error);
}

Dtype dtype_of(XLA_FFI_DataType type) {
    switch (type) {
        case XLA_FFI_DataType_PRED: return Dtype::boolean;
        case XLA_FFI_DataType_S8: return Dtype::int8;
        case XLA_FFI_DataType_S16: return Dtype::int16;
        case XLA_FFI_DataType_S32: return Dtype::int32;
        case XLA_FFI_DataType_S64: return Dtype::int64;
        case XLA_FFI_DataType_U8: return Dtype::uint8;
        case XLA_FFI_DataType_U16: return Dtype::uint16;
        case XLA_FFI_DataType_U32: return Dtype::uint32;
        case XLA_FFI_DataType_U64: return Dtype::uint64;
        case XLA_FFI_DataType_F16: return Dtype::float16;
        case XLA_FFI_DataType_BF16: return Dtype::bfloat16;
        case XLA_FFI_DataType_F32: return Dtype::float32;
        case XLA_FFI_DataType_F64: return Dtype::float64;
        default: throw std::invalid_argument("an array of a dtype that tables do not take");
    }
}

ProgramArray array_of(const void* argument) {
    const auto* buffer = static_cast<const XLA_FFI_Buffer*>(argument);
    return {dtype_of(buffer->dtype),
            buffer->data,
            {buffer->dims, static_cast<std::size_t>(buffer->rank)}};
}

void read_attributes(const XLA_FFI_Attrs& attributes, int64_t& key, ProgramCall& call) {
    for (int64_t i = 0; i < attributes.size; ++i) {
        const std::string_view name(attributes.names[i]->ptr, attributes.names[i]->len);
        if (attributes.types[i] == XLA_FFI_AttrType_ARRAY) {
            const auto* array = static_cast<const XLA_FFI_Array*>(attributes.attrs[i]);
            if (name == "keys") call.keys = {static_cast<const int64_t*>(array->data), array->size};
        } else if (attributes.types[i] == XLA_FFI_AttrType_SCALAR) {
            const void* value = static_cast<const XLA_FFI_Scalar*>(attributes.attrs[i])->value;
            if (name == "key") key = *static_cast<const int64_t*>(value);
            if (name == "rule") call.rule = *static_cast<const int64_t*>(value);
            if (name == "clip") call.clip = *static_cast<const double*>(value);
            if (name == "raises") call.raises = *static_cast<const bool*>(value);
            if (name == "untrained") call.untrained = *static_cast<const Untrained*>(value);
        }
    }
}

// Tells the runtime what a handler is made for, where it asks for that.
bool tell_metadata(const XLA_FFI_CallFrame& frame) {
    const XLA_FFI_Extension_Base* extension = frame.extension_start;
    if (extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) return false;
    auto* metadata = reinterpret_cast<const XLA_FFI_Metadata_Extension*>(extension)->metadata;
    metadata->api_version.major_version = 0;
    metadata->api_version.minor_version = 1;
    metadata->traits = 0;
    return true;
}

template <int Method>
XLA_FFI_Error* handle(XLA_FFI_CallFrame* frame) {
    if (tell_metadata(*frame)) return nullptr;
    try {
        ProgramCall call;
        int64_t key = 0;
        read_attributes(frame->attrs, key, call);
        for (int64_t i = 0; i < frame->args.size; ++i)
            call.arguments.push_back(array_of(frame->args.args[i]));
        call.out = array_of(frame->rets.rets[0]);
        ProgramTable::call(key, Method, call);
        return nullptr;
    } catch (const TableIsGone&) {
        return error_of(*frame, XLA_FFI_Error_Code_NOT_FOUND,
                        "the table that this program calls is gone");
    } catch (const std::out_of_range& error) {
        return error_of(*frame, XLA_FFI_Error_Code_OUT_OF_RANGE, error.what());
    } catch (const std::invalid_argument& error) {
        return error_of(*frame, XLA_FFI_Error_Code_INVALID_ARGUMENT, error.what());
    } catch (const std::exception& error) {
        return error_of(*frame, XLA_FFI_Error_Code_INTERNAL, error.what());
    }
}

template <int... Methods>
std::vector<void*> handlers(std::integer_sequence<int, Methods...>) {
    return {reinterpret_cast<void*>(&handle<Methods>)...};
}

}  // namespace

std::vector<void*> xla_handlers() {
    return handlers(std::make_integer_sequence<int, ProgramTable::kMethodCount>{});
}

}  // namespace rowwise
