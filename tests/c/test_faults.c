/* test_faults.c: the loader when a call to the system fails: see fault_runs.h. */
#include "fault_runs.h"
#include "safetensors.h"

static int
open_and_close_file(const struct inputs *inputs, struct qe_error *err)
{
    struct qe_safetensors file;
    int status = qe_safetensors_open(inputs->paths[0], &file, err);

    if (status < 0) {
        require(file.path == NULL && file.map == NULL, "a refused file is zeroed");
        return status;
    }
    qe_safetensors_close(&file);
    return 0;
}

static int
open_and_close_model(const struct inputs *inputs, struct qe_error *err)
{
    struct qe_model model;
    int status =
        qe_model_open(&inputs->config, inputs->paths, inputs->n_paths, &model, err);

    if (status < 0) {
        require(model.files == NULL && model.weights.layers == NULL,
                "a refused model is zeroed");
        return status;
    }
    qe_model_close(&model);
    return 0;
}

int
main(int argc, char **argv)
{
    struct inputs inputs = read_inputs(argc, argv);

    run_scenario("file", open_and_close_file, &inputs);
    run_scenario("model", open_and_close_model, &inputs);
    return 0;
}
